"""Made-up searches, and finished comparisons of them on disk, written by the writer of real runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from noisesmith.pipeline import cli
from noisesmith.pipeline.bench import Design, base_config, choose, make_design
from noisesmith.pipeline.bench.design import Trial
from noisesmith.pipeline.records import Failure, NoiseStats, Provenance, Recipe, Result, Row
from noisesmith.pipeline.sinks import open_run
from tests.report.conftest import png
from tests.runs import write_config
from tests.writing import RunWriter

T = 4
Judges = Mapping[str, tuple[float | None, float | None]]  # of the first and the kept image
PROVENANCE = Provenance("a_method", "sd", "ab12", "llava", "cd34", "yes")


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str | int | Path) -> object:
    """Give ``noisesmith bench`` its arguments; returns the exit code."""
    monkeypatch.setattr(sys, "argv", ["noisesmith", "bench", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code


def row(scores: Sequence[float], steps: Sequence[int] | None = None, **changes: Any) -> dict[str, Any]:
    """The columns a comparison reads of a search with T = 4."""
    steps = steps or [T] * len(scores)
    full = [score for score, count in zip(scores, steps, strict=True) if count == T]
    base = {
        "scores": list(scores), "steps": list(steps), "evaluations": [float(count) for count in steps],
        "score_initial": scores[0], "score": max(full), "rounds": len(scores) - 1, "stop_reason": "rounds",
        "noise": {"mean": 0.0, "std": 1.0, "norm": 1.0, "ks": 0.01},
    }  # fmt: skip
    return base | changes


def rows_of(*searches: dict[str, Any], seed: int = 0) -> dict[tuple[int, str], dict[str, Any]]:
    """One row per prompt, keyed as a comparison expects them."""
    return {(seed, f"{index:08d}-abcdef01"): search for index, search in enumerate(searches)}


def result(trial: Trial, asked: Row, scores: Sequence[float], judges: Judges) -> Result:
    """A row whose search had these scores."""
    shown, count = png("#0000ff", 16), len(scores)
    return Result(
        row=asked, image=shown, image_initial=shown, width=16, height=16, scores=tuple(scores),
        steps=(T,) * count, evaluations=(float(T),) * count, score=max(scores), rounds=count - 1,
        stop_reason="rounds", judges=dict(judges), seed=trial.config.seed,
        recipe=Recipe("m", 0, (4, 8, 8), (), (), (), 1, T, 1, "00"), noise=NoiseStats(0.0, 1.0, 1.02, 0.03),
        noise_fp16=b"00" if trial.config.stores_noise else None,
    )  # fmt: skip


@contextmanager
def writing(design: Design, trial: Trial, provenance: Provenance) -> Iterator[RunWriter]:
    """The writer of a run, which is finished at the end of the block."""
    open_run(trial.config, design.corpus)
    writer = RunWriter(trial.config.run_dir, design.corpus.extra_schema, design.corpus.size, provenance)
    yield writer
    writer.finish()


def write_trial(design: Design, trial: Trial, scores: Sequence[float], provenance: Provenance = PROVENANCE) -> None:
    """A finished run in which each row's search had these scores and no judge; no scores: every row failed."""
    attempts = ({"error": "RuntimeError", "message": "no attention here", "where": "generate"},)
    with writing(design, trial, provenance) as writer:
        for one in design.corpus.rows():
            if scores:
                writer.put(result(trial, one, scores, {}))
            else:
                writer.fail(Failure(one, attempts))


@pytest.fixture
def config_path(tmp_path: Path, tiny_sd: Path, tiny_llava: Path) -> Path:
    """A config of two sources with two prompts each, T = 4."""
    for name in ("plain.txt", "hard.txt"):
        (tmp_path / name).write_text("a cat\na dog\na bowl\n")
    sources = [{"source": str(tmp_path / name), "size": 2} for name in ("plain.txt", "hard.txt")]
    return write_config(tmp_path, tiny_sd, tiny_llava, generators={"steps": T}, corpus=sources)


@pytest.fixture
def finished(config_path: Path, tmp_path: Path) -> Callable[[Mapping[str, Sequence[float]]], Design]:
    """``finished({label: scores})`` makes a comparison of one round and one seed in ``OUT``, and writes its runs."""

    def make(scores: Mapping[str, Sequence[float]]) -> Design:
        variants = choose(",".join(scores), None)
        design = make_design(base_config(config_path, []), variants, tmp_path / "OUT", prompts=None, rounds=1, seeds=1)
        for trial in design.trials:
            write_trial(design, trial, scores[trial.variant.label])
        return design

    return make
