"""``dpo``: only pairs that decide, plain bytes, and the loader steps of the Diffusion-DPO scripts."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import PIL.Image
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Value, load_dataset

from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.export import dpo
from noisesmith.pipeline.records import Result, Row
from noisesmith.pipeline.sinks import read_rows
from tests.export.conftest import finished, lines, picture, write, write_run
from tests.sinks.conftest import Run

# finished(): score index/100 against .05; the judge knows .25 and index % 10 / 10; every fifth image equals the first.
DECIDED = [n for n in range(30) if n != 5 and n % 5 != 4]


def pairs(folder: Path) -> list[dict[str, Any]]:
    return pq.read_table(folder / "data").to_pylist()


def check(run: Run, found: list[dict[str, Any]], by: str) -> None:
    """Every pair holds the two images of its row, and the label is 1.0 for the one that ``by`` rates higher."""
    expected = {row["id"]: row for row in read_rows(run.dir)}
    for pair in found:
        row = expected[pair["id"]]
        winner = row["image"] if row[by] > row[f"{by}_initial"] else row["image_initial"]
        assert {pair["jpg_0"], pair["jpg_1"]} == {row["image"], row["image_initial"]}
        assert (pair["label_0"], pair["label_1"]) == ((1.0, 0.0) if pair["jpg_0"] == winner else (0.0, 1.0))
        assert pair["caption"] == row["prompt"]
        kept = 0 if pair["jpg_0"] == row["image"] else 1
        assert pair[f"score_{kept}"] == row["score"]
        assert pair[f"score_{1 - kept}"] == row["score_initial"]
        assert pair[f"judge_eye_{kept}"] == row["judge_eye"]
        assert (pair["topic"], pair["n"], pair["run_seed"]) == (row["topic"], row["n"], row["run_seed"])


def test_columns_of_the_corpus_rate_no_image_of_the_run(tmp_path: Path) -> None:
    """Such as those of an earlier run, whose kept images were its corpus, and texts in two versions."""
    extra = {"old_score": 0.9, "old_score_initial": 0.1, "prompt_initial": "before", "topic": "pets", "n": 1}
    run = write_run(tmp_path, [line | extra for line in lines(8)])
    with pytest.raises(UserError, match=r"--by old_score: does not rate first and kept images; use score, judge_eye$"):
        write(run, "dpo", tmp_path / "none", by="old_score")
    write(run, "dpo", tmp_path / "out")
    for pair in pairs(tmp_path / "out"):
        assert {name: pair[name] for name in extra} == extra


def test_pairs_that_decide(run: Run, tmp_path: Path) -> None:
    done = write(run, "dpo", tmp_path / "out")
    found = pairs(tmp_path / "out")
    assert [pair["n"] for pair in found] == DECIDED
    assert done.dropped == {"where both images have the same score": 1, "where both images have the same bytes": 6}
    check(run, found, "score")
    assert 6 < sum(pair["label_0"] for pair in found) < 18  # sides are swapped


def test_a_judge_may_prefer_the_first_image(run: Run, tmp_path: Path) -> None:
    done = write(run, "dpo", tmp_path / "out", by="judge_eye", margin=0.1)
    found = pairs(tmp_path / "out")
    assert [pair["n"] for pair in found] == [
        n for n in range(30) if n % 4 != 3 and n % 5 != 4 and abs(n % 10 / 10 - 0.25) >= 0.1
    ]
    check(run, found, "judge_eye")
    assert done.dropped["without judge_eye of both images"] == 7
    assert done.dropped["where judge_eye differs by less than 0.1"] > 0


def test_the_steps_of_the_dpo_scripts(run: Run, tmp_path: Path) -> None:
    write(run, "dpo", tmp_path / "out", splits={"val": 0.1}, image_format="jpeg")
    dataset = load_dataset(str(tmp_path / "out"), split="train")
    assert dataset.features["jpg_0"] == Value("binary")
    assert dataset.features["label_0"] == Value("float64")
    assert dataset.features["caption"] == Value("string")

    def preprocess(examples: dict[str, list[Any]]) -> dict[str, list[Any]]:
        images = [
            [np.asarray(PIL.Image.open(io.BytesIO(data)).convert("RGB")) for data in examples[name]]
            for name in ("jpg_0", "jpg_1")
        ]
        winners_first = []
        for both, label in zip(zip(*images, strict=True), examples["label_0"], strict=True):
            ordered = both[::-1] if label == 0 else both
            winners_first.append(np.concatenate(ordered, axis=2))
        return {"pixel_values": winners_first, "id": examples["id"]}

    originals = {row["id"]: row for row in read_rows(run.dir, ["id", "image", "score", "score_initial"])}
    for example in dataset.with_transform(preprocess):
        row = originals[example["id"]]
        kept = np.asarray(PIL.Image.open(io.BytesIO(row["image"])), int)
        winner = (
            example["pixel_values"][..., :3]
            if row["score"] > row["score_initial"]
            else example["pixel_values"][..., 3:]
        )
        assert np.abs(winner.astype(int) - kept).mean() < 5
    streamed = load_dataset(str(tmp_path / "out"), split="val", streaming=True)
    assert sum(1 for _ in streamed) >= 1


def test_other_readers_open_the_folder(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dpo, "GROUP_BYTES", 1 << 12)
    monkeypatch.setattr(dpo, "FILE_BYTES", 1 << 14)
    write(run, "dpo", tmp_path / "out")
    folder = tmp_path / "out" / "data"
    files = sorted(path.name for path in folder.iterdir())
    assert len(files) > 1
    assert files[0] == f"train-00000-of-{len(files):05d}.parquet"
    expected = [pair["id"] for pair in pairs(tmp_path / "out")]
    assert len(expected) == len(DECIDED)
    assert pd.read_parquet(folder)["id"].tolist() == expected
    assert pl.read_parquet(folder / "*.parquet")["id"].to_list() == expected
    with duckdb.connect() as connection:
        rows = connection.sql(f"select id, octet_length(jpg_0) from '{folder}/*.parquet' order by id").fetchall()
    assert [row[0] for row in rows] == expected
    assert pq.read_schema(folder / files[0]).field("jpg_0").type == pa.binary()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pairs": "worst"}, "--pairs worst: .* did not keep these images.*; use --pairs first, or .*images=worst"),
        ({"pairs": "0,1"}, "--pairs 0,1: .* did not keep these images.*; use --pairs first, or .*images=all"),
        ({"pairs": "best"}, "--pairs best: is not known; use first, worst, or two image numbers such as 0,3"),
        ({"pairs": "2,2"}, "--pairs 2,2: is not known"),
        ({"by": "n"}, "--by n: does not rate first and kept images; use score, judge_eye"),
        ({"margin": -1.0}, "--margin -1.0: is no difference of scores"),
        ({"margin": 2.0}, "no row is left to export .*differs by less than 2"),
        ({"rows_per_shard": 5}, "--rows-per-shard: is only for --to webdataset; leave it out"),
    ],
)
def test_pairs_that_the_run_does_not_have(run: Run, tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        write(run, "dpo", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def with_rounds(row: Row) -> Result:
    """Four images, of which number 2 is a preview; every third row ended after the first round."""
    made = finished(row)
    scores = (0.3, 0.1, 0.05, 0.8) if row.index % 3 else (0.3, 0.1)
    pictures = [picture(100 * row.index + number) for number in range(len(scores))]
    kept = scores.index(max(scores))
    images = tuple(None if number == 2 else image for number, image in enumerate(pictures))
    return replace(
        made,
        image=pictures[kept],
        image_initial=pictures[0],
        scores=scores,
        steps=(2, 2, 1, 2)[: len(scores)],
        evaluations=(2.0,) * len(scores),
        score=scores[kept],
        images=images,
    )


def only_worst(row: Row) -> Result:
    made = with_rounds(row)
    return replace(made, images=tuple(image if number == 1 else None for number, image in enumerate(made.images)))


@pytest.mark.parametrize(("keeps", "make"), [("worst", only_worst), ("all", with_rounds)])
def test_kept_against_worst(tmp_path: Path, keeps: str, make: Callable[[Row], Result]) -> None:
    """The preview has the lowest score of all, and is not the worst image."""
    run = write_run(tmp_path, lines(9), make, output={"images": keeps})
    write(run, "dpo", tmp_path / "out", pairs="worst", margin=0.1)
    rows = {row["id"]: row for row in read_rows(run.dir)}
    found = pairs(tmp_path / "out")
    assert len(found) == 9
    for pair in found:
        row = rows[pair["id"]]
        kept = 0 if pair["label_0"] == 1.0 else 1
        assert pair[f"jpg_{kept}"] == row["image"]
        assert pair[f"jpg_{1 - kept}"] == row["round_images"][1]
        assert (pair[f"score_{kept}"], pair[f"score_{1 - kept}"]) == (row["score"], 0.1)
        assert (pair["score_initial"], pair["judge_eye"]) == (0.3, row["judge_eye"])  # of the first and the kept image
        assert "round_images" not in pair
    assert {pair["label_0"] for pair in found} == {0.0, 1.0}


def test_two_images_by_number(tmp_path: Path) -> None:
    run = write_run(tmp_path, lines(9), with_rounds, output={"images": "all"})
    done = write(run, "dpo", tmp_path / "out", pairs="0,3")
    assert done.dropped == {"that kept no image 3": 3}
    rows = {row["id"]: row for row in read_rows(run.dir)}
    for pair in pairs(tmp_path / "out"):
        images = rows[pair["id"]]["round_images"]
        ordered = (pair["jpg_1"], pair["jpg_0"]) if pair["label_0"] == 0 else (pair["jpg_0"], pair["jpg_1"])
        assert ordered == (images[3], images[0])
        assert {pair["score_0"], pair["score_1"]} == {0.3, 0.8}


@pytest.mark.parametrize(
    ("keeps", "options", "words"),
    [
        ("worst", {"pairs": "0,3"}, "did not keep these images"),
        ("all", {"pairs": "0,2"}, "no row is left to export .*9 that kept no image 2"),
        ("all", {"pairs": "worst", "by": "judge_eye"}, "--by judge_eye: judges see the first and the kept image only"),
    ],
)
def test_pairs_of_other_images_that_are_not_there(
    tmp_path: Path, keeps: str, options: dict[str, Any], words: str
) -> None:
    run = write_run(tmp_path, lines(9), only_worst if keeps == "worst" else with_rounds, output={"images": keeps})
    with pytest.raises(UserError, match=words):
        write(run, "dpo", tmp_path / "out", **options)


def test_other_formats_leave_further_images_out(tmp_path: Path) -> None:
    run = write_run(tmp_path, lines(3), with_rounds, output={"images": "all"})
    write(run, "imagefolder", tmp_path / "folder")
    assert "round_images" not in (tmp_path / "folder" / "train" / "metadata.jsonl").read_text()
    write(run, "webdataset", tmp_path / "tars")
    (path,) = (tmp_path / "tars" / "train").glob("*.tar")
    assert b"round_images" not in path.read_bytes()
