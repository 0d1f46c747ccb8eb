"""Which rows are exported: conditions on all columns, the best of each prompt, single images, splits by prompt."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.export.imagefolder import ImageFolder
from noisesmith.pipeline.export.options import ExportOptions, read_splits
from noisesmith.pipeline.export.select import Selection, select
from noisesmith.pipeline.export.source import Source
from noisesmith.pipeline.export.splits import assign_splits
from noisesmith.pipeline.telemetry.console import search_progress
from tests.export.conftest import finished, lines, picture, write_run
from tests.sinks.conftest import Run


def selected(run: Run, **options: Any) -> Selection:
    source = Source.open(run.dir)
    asked = ExportOptions(to="imagefolder", out=Path("unused"), **options)
    return select(source, asked, ImageFolder(source, asked), search_progress)


def positions(selection: Selection) -> list[int]:
    return [position for position, split in enumerate(selection.splits) if split]


def test_without_options_every_row_is_exported(run: Run) -> None:
    assert positions(selected(run)) == list(range(30))


def test_a_condition_reads_columns_of_rows_corpus_and_side_tables(run: Run) -> None:
    found = selected(run, where='score >= .04 and topic == "animals" and accepted')
    assert positions(found) == [12, 15, 18, 21]  # shards 6 and 7 have no side table: not known is not accepted
    assert found.dropped == {"not matched by --where": 26}


def test_the_best_of_each_prompt(run: Run) -> None:
    assert positions(selected(run, top_k=1)) == list(range(1, 30, 2))
    found = selected(run, top_k=1, by="judge_eye")
    judged = [n for n in range(30) if n % 4 != 3]
    best = {n // 2: max((m for m in judged if m // 2 == n // 2), key=lambda m: (m % 10, -m)) for n in judged}
    assert positions(found) == sorted(best.values())
    assert found.dropped == {"without a value of judge_eye": 7, "not among the 1 best of the prompt by judge_eye": 8}


def test_of_equal_rows_the_first_is_the_best(run: Run) -> None:
    assert positions(selected(run, top_k=1, by="width")) == list(range(0, 30, 2))


def test_nearly_equal_images_are_exported_once(tmp_path: Path) -> None:
    import io
    from dataclasses import replace

    import PIL.Image

    def make(row: Any) -> Any:
        image = picture(row.index % 4)
        if row.index >= 4:  # the same pictures, brighter by one level
            pixels = np.minimum(np.asarray(PIL.Image.open(io.BytesIO(image))).astype(int) + 1, 255)
            buffer = io.BytesIO()
            PIL.Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
            image = buffer.getvalue()
        return replace(finished(row), image=image)

    run = write_run(tmp_path, lines(8), make)
    first = selected(run, drop_duplicates=True)
    assert positions(first) == [0, 1, 2, 3]
    assert first.dropped == {"nearly the same image as another one": 4}
    assert positions(selected(run, drop_duplicates=True, by="score")) == [4, 5, 6, 7]


def test_no_prompt_is_in_two_splits_and_shares_hold(run: Run) -> None:
    found = selected(run, splits={"val": 0.2, "test": 0.1})
    prompt_splits = {position // 2: split for position, split in enumerate(found.splits)}
    assert all(prompt_splits[position // 2] == split for position, split in enumerate(found.splits))
    assert Counter(prompt_splits.values()) == {1: 10, 2: 3, 3: 2}
    assert selected(run, splits={"val": 0.2, "test": 0.1}).splits == found.splits
    assert selected(run, splits={"val": 0.2, "test": 0.1}, seed=1).splits != found.splits


def test_balanced_splits_have_the_same_share_of_each_value() -> None:
    rng = np.random.default_rng(0)
    prompts = np.repeat(rng.integers(0, 2**63, 3000).astype(np.uint64), 2)
    values = np.repeat(np.arange(3000) % 10 // 4, 2)  # 40, 40 and 20 %
    splits = assign_splits(prompts, values, {"val": 0.1, "test": 0.05})
    for number, share in ((1, 0.1), (2, 0.05)):
        for value, rows in ((0, 2400), (1, 2400), (2, 1200)):
            assert abs(np.sum((splits == number) & (values == value)) - share * rows) <= 4  # two prompts


def test_a_small_share_takes_one_prompt_at_least() -> None:
    prompts = np.arange(5, dtype=np.uint64)
    splits = assign_splits(prompts, np.zeros(5, dtype=np.int64), {"val": 0.001, "test": 0.99})
    assert sorted(splits.tolist()) == [0, 1, 2, 2, 2]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"where": "score > 2"}, "no row is left to export \\(30 not matched by --where\\); ask for less"),
        ({"where": "scor > 2"}, "--where: the run has no column 'scor'"),
        ({"top_k": 1, "by": "judge"}, "--by: the run has no column 'judge'; did you mean 'judge_eye'"),
        ({"top_k": 1, "by": "topic"}, "--by topic: the column holds string; rank images by a column of numbers"),
        ({"splits": {"val": 0.1}, "balance": "recipe"}, "--balance recipe: the column holds struct"),
        ({"splits": {"val": 0.1}, "where": "n < 2"}, "--split: 1 different prompts cannot fill 2 splits"),
        ({"balance": "topic"}, "--balance: .* give --split too"),
        ({"by": "score"}, "--by: .* give --top-k too"),
    ],
)
def test_options_that_cannot_be_met(run: Run, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        selected(run, **options)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["val"], "'' is no share"),
        (["val=x"], "'x' is no share"),
        (["val=1"], "'1' is no share"),
        (["val=nan"], "'nan' is no share"),
        (["dev=0.1"], "write each of val and test once"),
        (["val=0.1", "val=0.1"], "write each of val and test once"),
        (["val=0.5", "test=0.5"], "leave nothing for training"),
    ],
)
def test_splits_that_cannot_be_read(texts: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        read_splits(texts)
