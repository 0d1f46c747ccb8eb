"""What goes wrong in an actor, and what becomes of its rows. Faults are put into the real worker processes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from noisesmith.actors.retry import MAX_BACKOFF, FailureLimit, backoff
from noisesmith.pipeline.errors import MemoryExhausted, RunError
from noisesmith.pipeline.models.runtime import memory_guard
from noisesmith.pipeline.sinks import read_rows, verify_run
from tests.runs import noisesmith, write_config

pytestmark = pytest.mark.slow

# Imported by every Python process of a run; the actors' processes get the faults, the driver does not.
SABOTAGE = """
import os, sys
from pathlib import Path

if any("default_worker.py" in word for word in sys.orig_argv):
    import torch
    from noisesmith.pipeline.search import generate as module

    generate = module.generate

    def sabotaged(config, generator, tasks, starts, use):
        if len(tasks) > 2:
            torch.empty(1 << 60, dtype=torch.uint8)
        for task in tasks:
            if "crown" in task.prompt:
                os.kill(os.getpid(), 9)
            if "flaky" in task.prompt and len(tasks) == 1:
                tries = Path(os.environ["TRIES"])
                with tries.open("a") as file:
                    file.write("x")
                if tries.stat().st_size < 3:
                    raise ConnectionError("try again")
        made = generate(config, generator, tasks, starts, use)
        for task, latent in zip(tasks, made.latents):
            if f"fails in {task.key.round}" in task.prompt:
                latent.fill_(torch.nan)
        return made

    module.generate = sabotaged  # Ray's workers look it up there when they unpickle the actor
"""
PROMPTS = [
    "a cat", "a dog", "a cat and a dog", "a bird", "a crown", "a flaky car", "a bear that fails in 0",
    "a bear that fails in 2", "a lion", "a bowl",
]  # fmt: skip


@pytest.fixture(scope="module")
def sabotaged(tmp_path_factory: pytest.TempPathFactory, tiny_sd: Path, tiny_llava: Path) -> tuple[Path, int, str]:
    """A run of which one row kills its generator, two turn to NaN, one fails twice, and no batch above 2 fits."""
    folder = tmp_path_factory.mktemp("sabotaged")
    (folder / "sitecustomize.py").write_text(SABOTAGE)
    config = write_config(
        folder, tiny_sd, tiny_llava,
        generators={"batch_size": 8}, optimizer={"rounds": 3}, faults={"backoff_seconds": 0.01},
    )  # fmt: skip
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    code, output = noisesmith("run", config, PYTHONPATH=path, TRIES=str(folder / "tries"))
    return folder / "run", code, output


def _letters(run_dir: Path) -> dict[str, dict[str, Any]]:
    lines = [json.loads(line) for path in (run_dir / "failed").iterdir() for line in path.open()]
    return {letter["prompt"]: letter for letter in lines}


def test_only_the_rows_at_fault_are_given_up(sabotaged: tuple[Path, int, str]) -> None:
    run_dir, code, output = sabotaged
    assert code == 0, output
    assert "2 rows failed; their errors and tracebacks are in " in output
    assert "Traceback" not in output, "only --debug prints them"
    assert set(_letters(run_dir)) == {"a crown", "a bear that fails in 0"}
    assert verify_run(run_dir) == []
    assert len(list(read_rows(run_dir, ["id"]))) == len(PROMPTS) - 2


def test_a_row_that_kills_its_actor_takes_no_other_with_it(sabotaged: tuple[Path, int, str]) -> None:
    letter = _letters(sabotaged[0])["a crown"]
    assert letter["error"] == "ActorDiedError"
    alone = [attempt for attempt in letter["attempts"] if attempt["batch_size"] == 1]
    assert len(alone) == 3
    assert len({attempt["actor"] for attempt in alone}) == 3


def test_a_batch_that_does_not_fit_is_halved_until_it_does(sabotaged: tuple[Path, int, str]) -> None:
    sizes = {row["recipe"]["batch_size"] for row in read_rows(sabotaged[0], ["recipe"])}
    assert max(sizes) == 2
    assert not any("Memory" in str(letter) for letter in _letters(sabotaged[0]).values())


def test_an_unusable_round_ends_the_search_with_the_best_before_it(sabotaged: tuple[Path, int, str]) -> None:
    rows = {row["prompt"]: row for row in read_rows(sabotaged[0], ["prompt", "scores", "stop_reason", "score"])}
    row = rows["a bear that fails in 2"]
    assert row["stop_reason"] == "unusable"
    assert len(row["scores"]) == 2
    assert row["score"] == max(row["scores"])
    assert {rows[prompt]["stop_reason"] for prompt in ("a cat", "a flaky car")} == {"rounds"}


def test_a_first_image_that_is_unusable_is_a_dead_letter(sabotaged: tuple[Path, int, str]) -> None:
    letter = _letters(sabotaged[0])["a bear that fails in 0"]
    assert letter["error"] == "FloatingPointError"
    assert {(attempt["where"], attempt["round"]) for attempt in letter["attempts"]} <= {("generate", 0), ("score", 0)}


def test_black_images_stop_a_run_with_the_commonest_error(tmp_path: Path, tiny_sd: Path, tiny_llava: Path) -> None:
    """A VAE whose last layer is zero, as one that overflows in half precision may as well be."""
    black = tmp_path / "black"
    shutil.copytree(tiny_sd, black)
    weights = load_file(black / "vae" / "diffusion_pytorch_model.safetensors")
    weights |= {name: torch.zeros_like(weights[name]) for name in weights if name.startswith("decoder.conv_out")}
    save_file(weights, black / "vae" / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    faults = {"retries": 0, "failed_share": 0.25}
    code, output = noisesmith("run", write_config(tmp_path, black, tiny_llava, rows=40, faults=faults))
    assert code == 1, output
    assert "20 of 20 rows failed, more than faults.failed_share=0.25 of them" in output
    assert "UnusableImage (20 rows): the image is one flat colour" in output
    assert "Traceback" not in output
    assert len(_letters(tmp_path / "run")) == 4, "rows of the same text have different ids"


def test_torch_running_out_of_memory_is_told_from_other_errors() -> None:
    with pytest.raises(MemoryExhausted, match="allocate"), memory_guard():
        torch.empty(1 << 60, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="shape"), memory_guard():
        torch.zeros(3).reshape(2)


@given(first=st.floats(0, 3600), failures=st.integers(1, 10_000))
def test_backoff_never_shrinks_and_never_exceeds_a_minute_or_its_first(first: float, failures: int) -> None:
    wait = backoff(first, failures)
    assert first <= wait <= max(first, MAX_BACKOFF)
    assert backoff(first, failures + 1) >= wait


@given(st.lists(st.booleans(), max_size=60), st.floats(0.05, 1))
def test_the_failure_limit_stops_a_run_when_too_many_of_twenty_rows_failed(fates: list[bool], share: float) -> None:
    limit, written, failed = FailureLimit(share), 0, 0
    for fails in fates:
        failed, written = failed + fails, written + (not fails)
        if fails:
            limit.count("ValueError", "no")
        too_many = failed + written >= 20 and failed / (failed + written) > share
        if too_many:
            with pytest.raises(RunError, match=f"ValueError \\({failed} rows\\): no"):
                limit.check(written)
            return
        limit.check(written)
