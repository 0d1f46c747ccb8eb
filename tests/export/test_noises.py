"""``noise``: pairs of noises as the loader of NPNet reads them, bit for bit those of the search."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from noisesmith.pipeline.export import noises
from noisesmith.pipeline.noise import NoiseKey, digest, replay
from noisesmith.pipeline.records import Recipe, Result, Row
from noisesmith.pipeline.sinks import read_rows
from tests.export.conftest import finished, lines, write, write_run
from tests.sinks.conftest import Run


def references(run: Run) -> dict[str, tuple[Any, Any, str]]:
    """First noise, kept noise and prompt of each row."""
    found = {}
    for row in read_rows(run.dir, ["id", "prompt", "recipe"]):
        recipe = Recipe.from_row(row["recipe"])
        kept = replay(recipe, row["id"])
        assert digest(kept) == recipe.digest
        first = NoiseKey(recipe.seed, row["id"], 0).draw(0, recipe.shape)
        found[row["id"]] = (first.numpy(), kept.numpy(), row["prompt"])
    return found


def test_the_steps_of_npnet(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its loader lists folders of ``.npz`` files, and evaluates each line of the prompt file as Python."""
    monkeypatch.setattr(noises, "PER_FOLDER", 20)
    done = write(run, "noise", tmp_path / "out", splits={"val": 0.1})
    folder = tmp_path / "out" / "train"
    with (folder / "prompts.json").open(encoding="utf-8") as file:
        prompts = {line["index"]: line for line in map(eval, file.readlines())}
    expected = references(run)
    files = [path for part in sorted((folder / "noises").iterdir()) for path in part.iterdir()]
    assert len(files) == len(prompts) == done.rows["train"]
    assert len(list((folder / "noises").iterdir())) == 2
    for path in files:
        content = np.load(path)
        line = prompts[content["arr_2"].item()]
        first, kept, prompt = expected[path.stem]
        assert line["caption"] == prompt
        assert line["id"] == path.stem
        assert line["original_score_list"] == [0.05]
        np.testing.assert_array_equal(content["arr_0"].squeeze(), first)
        np.testing.assert_array_equal(content["arr_1"].squeeze(), kept)
        assert content["arr_0"].dtype == np.float32


def of_two_shapes(row: Row) -> Result:
    made = finished(row)
    recipe = replace(made.recipe, shape=(4, 8, 6 + 2 * (row.index % 2)))
    return replace(made, recipe=replace(recipe, digest=digest(replay(recipe, row.id))))


@pytest.mark.parametrize("make", [finished, of_two_shapes])
@pytest.mark.parametrize(("limit", "value"), [("FILE_BYTES", 20_000), ("FILE_PAIRS", 7)])
def test_safetensors_hold_the_same_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Row], Result], limit: str, value: int
) -> None:
    run = write_run(tmp_path, lines(30), make)
    monkeypatch.setattr(noises, limit, value)
    write(run, "noise", tmp_path / "out", noise_format="safetensors")
    folder = tmp_path / "out" / "train"
    expected = references(run)
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    assert len(rows) == 30
    files = {row["file"] for row in rows}
    assert len(files) > 1
    assert sorted(path.name for path in folder.glob("*.safetensors")) == sorted(files)
    for row in rows:
        pair = load_file(folder / row["file"])
        first, kept, prompt = expected[row["id"]]
        np.testing.assert_array_equal(pair["first"][row["position"]], first)
        np.testing.assert_array_equal(pair["kept"][row["position"]], kept)
        assert row["text"] == prompt


def test_a_noise_that_is_not_that_of_its_recipe_is_left_out(tmp_path: Path) -> None:
    def make(row: Row) -> Result:
        made = finished(row)
        return replace(made, recipe=replace(made.recipe, digest="0" * 32)) if row.index == 2 else made

    done = write(write_run(tmp_path, lines(4), make), "noise", tmp_path / "out")
    assert done.rows == {"train": 3}
    assert done.dropped == {"whose noise is not that of its recipe": 1}
