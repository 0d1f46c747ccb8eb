"""``bench gpu`` from its files to its tables: cells are saved one by one, and those that cannot be made are named."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from noisesmith.pipeline.bench.gpu import CELLS, Bench, check_bench, read_pairs, run_bench, write_gpu
from noisesmith.pipeline.bench.gpu.architectures import CLIP_FLANT5_XL, LLAVA, PIPELINES, SCORERS, SD15, SD35
from noisesmith.pipeline.bench.gpu.cells import Pair
from noisesmith.pipeline.bench.gpu.models import PairModels, _networks
from noisesmith.pipeline.errors import UserError
from tests.bench.conftest import command
from tests.bench.tiny_architectures import shrink

GENERATORS = {"steps": 6, "guidance_scale": 3.0}


def entry(name: str, sd: Path, scorer: Path | str, batches: list[int], **scorers: Any) -> dict[str, Any]:
    return {
        "name": name,
        "batches": batches,
        "generators": {"model": str(sd), **GENERATORS},
        "scorers": {"model": str(scorer), **scorers},
    }


def bench_of(
    folder: Path, *entries: dict[str, Any], minutes: float = 60, now: Callable[[], float] | None = None
) -> Bench:
    path = folder / "cells.yaml"
    path.write_text(yaml.safe_dump(list(entries)))
    clock = {} if now is None else {"now": now}
    return Bench(read_pairs(path), folder / "out", minutes, "cpu", **clock)


def run(bench: Bench) -> list[str]:
    """Measure what is left; returns the lines that are printed."""
    notes: list[str] = []
    check_bench(bench)
    run_bench(bench, notes.append)
    return notes


def table_of(bench: Bench) -> tuple[str, list[dict[str, Any]]]:
    markdown, plain = (path.read_text() for path in write_gpu(bench.cells(), bench.out, bench.device))
    return markdown, json.loads(plain)["cells"]


def test_without_a_gpu_one_sentence_says_so_and_nothing_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command(monkeypatch, "gpu", "--out", tmp_path / "out") == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: --device: torch finds no CUDA GPU on this machine")
    assert len(said.err.splitlines()) == 1
    assert said.out == ""
    assert not (tmp_path / "out").exists()


def test_the_built_in_models_are_refused_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "gpu", "--device", "cpu") == 2
    assert "too large for a CPU" in capsys.readouterr().err


def test_the_built_in_cells_are_published_models_at_batches_up_to_16() -> None:
    pairs = read_pairs(CELLS)
    assert {(pair.generators["model"], pair.scorers["model"]) for pair in pairs} == {
        (generator, scorer) for generator in PIPELINES for scorer in SCORERS
    }
    for pair in pairs:
        assert pair.random_weights
        assert max(pair.batches) == 16
        assert pair.config(16, {}).generators.steps == 50


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "A b"}, "name must be"),
        ({"batches": []}, "batches must be different numbers"),
        ({"batches": [1, 1]}, "batches must be different numbers"),
        ({"batches": [True]}, "batches must be different numbers"),
        ({"rounds": 3}, "'rounds' is unknown"),
        ({"random_weights": "yes"}, "random_weights must be true or false"),
        ({"random_weights": True}, "has no architecture here"),
        ({"scorers": [{"model": "embedded"}]}, "scorers must be a section"),
        ({"generators": {"model": "embedded", "step": 3}}, "step"),
    ],
)
def test_a_wrong_entry_is_refused_by_name(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "cells.yaml"
    path.write_text(yaml.safe_dump([entry("tiny", Path("embedded"), "embedded", [1]) | change]))
    with pytest.raises(UserError, match=message):
        read_pairs(path)


def test_two_entries_need_two_names(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="second one named tiny"):
        bench_of(tmp_path, *[entry("tiny", Path("embedded"), "embedded", [1])] * 2)


def test_finished_cells_are_not_measured_again(tmp_path: Path, tiny_sd: Path, tiny_llava: Path) -> None:
    assert run(bench_of(tmp_path, entry("tiny", tiny_sd, tiny_llava, [1])))[0].startswith("1 cell: 1 to measure")
    first = (tmp_path / "out" / "cells" / "tiny-b1.json").read_bytes()
    more = bench_of(tmp_path, entry("tiny", tiny_sd, tiny_llava, [1, 2]))
    notes = run(more)
    assert notes[0].startswith("2 cells: 1 to measure")
    assert [note.partition(":")[0] for note in notes[1:]] == ["tiny-b2"]
    assert (tmp_path / "out" / "cells" / "tiny-b1.json").read_bytes() == first
    markdown, cells = table_of(more)
    assert markdown.count("| tiny |") == 2
    assert "not measured" not in markdown
    loop = cells[0]["measured"]["loop_seconds"]
    assert cells[1]["measured"]["loop_seconds"] is None
    for cell in cells:
        seconds = sum(cell["measured"]["seconds"].values())
        assert cell["figures"]["faster"] == pytest.approx(loop * cell["batch"] / seconds)


def test_other_models_do_not_mix_with_measured_ones(tmp_path: Path, tiny_sd: Path, tiny_llava: Path) -> None:
    run(bench_of(tmp_path, entry("tiny", tiny_sd, tiny_llava, [1]), minutes=1e-9))
    other = bench_of(tmp_path, entry("tiny", tiny_sd, tiny_llava, [1], question="Is it {prompt}?"))
    with pytest.raises(UserError, match="started with other settings"):
        check_bench(other)


def test_cells_beyond_the_time_are_listed_as_not_measured(tmp_path: Path, tiny_sd: Path, tiny_llava: Path) -> None:
    """By a clock that moves 40 s with each printed line: before the first cell, and after it."""
    seconds = [0.0]
    bench = bench_of(
        tmp_path,
        entry("first", tiny_sd, tiny_llava, [1, 2]),
        entry("second", tiny_sd, tiny_llava, [1]),
        minutes=1,
        now=lambda: seconds[0],
    )
    notes: list[str] = []

    def note(line: str) -> None:
        notes.append(line)
        seconds[0] += 40

    run_bench(bench, note)
    assert [line.partition(":")[0] for line in notes[1:]] == ["first-b1", "first-b2", "second"]
    assert all("no time left" in line for line in notes[2:])
    markdown, cells = table_of(bench)
    assert [cell["outcome"] for cell in cells] == ["measured", "not measured", "not measured"]
    assert "- `first-b2`: not measured" in markdown
    assert "- `second-b1`: not measured" in markdown


def test_a_cell_that_takes_longer_than_the_time_is_dropped(tmp_path: Path, tiny_sd: Path, tiny_llava: Path) -> None:
    """The clock is read before every round; here it jumps after some of them."""
    reads = [0]

    def now() -> float:
        reads[0] += 1
        return 1e9 if reads[0] > 8 else 0.0

    bench = bench_of(tmp_path, entry("tiny", tiny_sd, tiny_llava, [1]), now=now)
    assert run(bench)[-1] == "tiny-b1: no time left"
    assert [cell["outcome"] for cell in table_of(bench)[1]] == ["not measured"]


def test_a_cell_that_runs_out_of_memory_is_recorded_and_the_others_are_measured(tmp_path: Path, tiny_sd: Path) -> None:
    hungry = entry("hungry", tiny_sd, "tests.bench.hungry:Hungry", [2, 1], allow_code=True)
    bench = bench_of(tmp_path, hungry)
    run(bench)
    markdown, cells = table_of(bench)
    assert [cell["outcome"] for cell in cells] == ["out of memory", "measured"]
    assert "- `hungry-b2`: out of memory" in markdown
    assert run(bench)[0].startswith("2 cells: 0 to measure")


RANDOM = [(SD15, LLAVA, "ddim"), (SD35, CLIP_FLANT5_XL, "flow_euler")]


@pytest.mark.parametrize(("generator", "scorer", "scheduler"), RANDOM)
def test_published_architectures_are_measured_with_random_weights(
    generator: str, scorer: str, scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command's whole way, with tiny sizes of the same classes in bfloat16."""
    shrink(monkeypatch)
    asked = {
        "name": "published",
        "batches": [1],
        "random_weights": True,
        "generators": {"model": generator, "scheduler": scheduler, "dtype": "bfloat16", **GENERATORS},
        "scorers": {"model": scorer, "dtype": "bfloat16"},
    }
    (tmp_path / "cells.yaml").write_text(yaml.safe_dump([asked]))
    out = tmp_path / "out"
    assert command(monkeypatch, "gpu", tmp_path / "cells.yaml", "--device", "cpu", "--out", out) == 0
    (cell,) = json.loads((out / "gpu.json").read_text())["cells"]
    assert cell["outcome"] == "measured", cell
    assert cell["measured"]["text_operations"] > 0
    assert not (out / "models").exists()


def test_random_weights_take_no_room_on_the_disk_and_are_drawn_from_a_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shrink(monkeypatch)
    pair = Pair("tiny", (1,), True, {"model": SD15, **GENERATORS}, {"model": LLAVA})
    loaded = [_networks(PairModels(tmp_path / str(number), "cpu").load(pair)) for number in range(2)]
    for one, again in zip(*loaded, strict=True):
        for (name, weights), other in zip(one.named_parameters(), again.parameters(), strict=True):
            assert torch.equal(weights, other), name
            if weights.ndim > 1:
                fan_in = weights[0].numel()
                assert float(weights.detach().std()) == pytest.approx(fan_in**-0.5, rel=0.5), name
    for path in (tmp_path / "0").rglob("*.safetensors"):
        stored = path.stat()
        assert stored.st_size > 10_000
        assert 512 * stored.st_blocks < stored.st_size, "the zeros are not written"


def test_neither_ray_nor_dataset_libraries_are_needed(tmp_path: Path, tiny_sd: Path, tiny_llava: Path) -> None:
    """A machine with a GPU may have only what CONTRIBUTING.md lists."""
    bench = bench_of(tmp_path, entry("tiny", tiny_sd, tiny_llava, [1]))
    script = (
        "import sys\n"
        "for name in ('ray', 'datasets', 'webdataset', 'sentencepiece', 'duckdb'): sys.modules[name] = None\n"
        "from noisesmith.pipeline.cli import main\n"
        "main()\n"
    )
    arguments = ["bench", "gpu", str(tmp_path / "cells.yaml"), "--device", "cpu", "--out", str(bench.out)]
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert [cell["outcome"] for cell in table_of(bench)[1]] == ["measured"]
