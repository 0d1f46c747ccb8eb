"""Whole runs over a real Ray cluster: what is written, what repeats, what fails and how."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import webdataset
from datasets import load_dataset
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from noisesmith.actors.session import Session
from noisesmith.pipeline.config import load_config
from noisesmith.pipeline.merge import merge
from noisesmith.pipeline.noise import digest, replay
from noisesmith.pipeline.records import Recipe
from noisesmith.pipeline.replay import replay_row
from noisesmith.pipeline.report.figures import read_operations
from noisesmith.pipeline.sinks import config_of_row, read_rows, verify_run
from tests.runs import PROMPTS, noisesmith, write_config
from tests.sessions import drive, one_process_per_worker

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_sd: Path, tiny_llava: Path) -> tuple[Path, str]:
    """A finished run of batch size 1 and its output."""
    folder = tmp_path_factory.mktemp("finished")
    sizes = {"batch_size": 1}
    code, output = noisesmith("run", write_config(folder, tiny_sd, tiny_llava, generators=sizes, scorers=sizes))
    assert code == 0, output
    return folder / "run", output


def _rows(run_dir: Path) -> list[dict[str, Any]]:
    return list(read_rows(run_dir, None))


def test_every_prompt_is_written_once_in_order(finished: tuple[Path, str]) -> None:
    rows = _rows(finished[0])
    assert [row["prompt"] for row in rows] == [PROMPTS[i % len(PROMPTS)] for i in range(6)]
    assert len({row["id"] for row in rows}) == 6
    assert verify_run(finished[0]) == []


def test_every_reader_gives_the_same_rows(finished: tuple[Path, str]) -> None:
    """``datasets`` on the files and on the directory, webdataset on the tars: decoded images, the same ids."""
    run_dir, _ = finished
    by_file = load_dataset("parquet", data_files=str(run_dir / "data" / "*.parquet"), split="train")
    by_directory = load_dataset(str(run_dir), split="train")
    tars = sorted(str(path) for path in (run_dir / "tars").glob("*.tar"))
    samples = list(webdataset.WebDataset(tars, shardshuffle=False).decode("pil"))
    ids = [row["id"] for row in read_rows(run_dir, ["id"])]
    assert list(by_file["id"]) == list(by_directory["id"]) == [sample["__key__"] for sample in samples] == ids
    assert by_file.column_names == by_directory.column_names
    for row, sample in zip(by_directory, samples, strict=True):
        assert row["image"].size == sample["png"].size == (row["width"], row["height"])
        assert row["image"].tobytes() == sample["png"].tobytes()
        assert sample["txt"] == row["prompt"]
        assert sample["json"]["score"] == row["score"]


def test_the_kept_score_is_the_best_of_all_rounds(finished: tuple[Path, str]) -> None:
    for row in _rows(finished[0]):
        assert len(row["scores"]) == row["rounds"] + 1 == 3
        assert row["score"] == max(row["scores"])
        assert row["score_initial"] == row["scores"][0]
        assert len(row["recipe"]["gammas"]) == row["scores"].index(row["score"])


def test_gammas_follow_the_scores(finished: tuple[Path, str]) -> None:
    for row in _rows(finished[0]):
        for gamma, score in zip(row["recipe"]["gammas"], row["scores"], strict=False):
            assert gamma == 1 - score**0.5


def test_recipes_rebuild_the_noise(finished: tuple[Path, str]) -> None:
    for row in _rows(finished[0]):
        recipe = Recipe.from_row(row["recipe"])
        noise = replay(recipe, row["id"])
        assert digest(noise) == recipe.digest
        assert row["noise"]["std"] == pytest.approx(float(noise.double().std(correction=0)), rel=1e-9)


def test_replay_rebuilds_noise_and_image_bit_for_bit(finished: tuple[Path, str], tmp_path: Path) -> None:
    row = max(_rows(finished[0]), key=lambda row: len(row["recipe"]["gammas"]))
    code, output = noisesmith("replay", finished[0], row["id"], "--out", tmp_path / "again.png")
    assert code == 0, output
    assert "bit-identical" in output
    assert "image   identical" in output
    assert (tmp_path / "again.png").read_bytes() == row["image"]


def test_the_summary_names_scores_and_the_next_step(finished: tuple[Path, str]) -> None:
    _, output = finished
    assert "VQA score" in output
    assert "noisesmith verify" in output
    stats = json.loads((finished[0] / "stats.json").read_text())
    assert stats["operations"]["rows_written"] == 6
    assert stats["operations"]["rounds"] == 12


def test_a_finished_run_has_nothing_left_to_do(finished: tuple[Path, str], tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (finished[0] / "data").iterdir()}
    code, output = noisesmith("run", finished[0].parent / "config.yaml")
    assert code == 0
    assert "nothing to run" in output
    assert {path: path.stat().st_mtime_ns for path in (finished[0] / "data").iterdir()} == before


def test_a_row_that_cannot_be_scored_is_a_dead_letter_until_retried(
    tmp_path: Path, tiny_sd: Path, tiny_llava: Path
) -> None:
    """A scorer whose weights for some words are not numbers: no row is lost in silence, and mended ones make all."""
    broken = tmp_path / "broken"
    shutil.copytree(tiny_llava, broken)
    weights = load_file(broken / "model.safetensors")
    words = AutoTokenizer.from_pretrained(broken).convert_tokens_to_ids(["red", "dog", "blue"])
    weights["language_model.model.embed_tokens.weight"][words] = torch.nan
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    code, output = noisesmith("run", write_config(tmp_path, tiny_sd, broken, rows=3, faults={"retries": 1}))
    assert code == 1, output
    assert "3 rows failed" in output
    assert "to try them again: noisesmith retry" in output
    letters = [json.loads(line) for path in (tmp_path / "run" / "failed").iterdir() for line in path.open()]
    assert len(letters) == 3
    for letter in letters:
        assert {attempt["error"] for attempt in letter["attempts"]} == {"FloatingPointError"}
        assert sum(attempt["batch_size"] == 1 for attempt in letter["attempts"]) == 2

    shutil.copy(tiny_llava / "model.safetensors", broken / "model.safetensors")
    code, output = noisesmith("retry", tmp_path / "run", "faults.retries=0")
    assert code == 0, output
    assert "3 failed rows are tried again" in output
    assert [row["prompt"] for row in _rows(tmp_path / "run")] == PROMPTS[:3]
    assert verify_run(tmp_path / "run") == []


def test_an_unreadable_model_is_one_sentence(tmp_path: Path, tiny_sd: Path, tiny_llava: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_llava, broken)
    (broken / "model.safetensors").write_bytes(b"not safetensors")
    code, output = noisesmith("run", write_config(tmp_path, tiny_sd, broken))
    assert code == 2, output
    assert "error: scorers.model" in output
    assert "Traceback" not in output


@pytest.fixture(scope="module")
def runs(
    finished: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory, tiny_sd: Path, tiny_llava: Path
) -> Iterator[Session]:
    """One cluster for the tests below, which look at rows alone."""
    config = load_config(write_config(tmp_path_factory.mktemp("any"), tiny_sd, tiny_llava))
    with one_process_per_worker(config) as session:
        yield session


def test_duplicates_keep_their_ids_and_extra_columns_arrive(
    runs: Session, tmp_path: Path, tiny_sd: Path, tiny_llava: Path
) -> None:
    own = tmp_path / "own.csv"
    own.write_text('caption,source,weight\na dog,web,1\na dog,book,2\n"a cat, a dog",web,3\n')
    corpus = [{"source": str(own), "column": "caption"}]
    drive(runs, load_config(write_config(tmp_path, tiny_sd, tiny_llava, corpus=corpus, optimizer={"rounds": 0})))
    rows = load_dataset(str(tmp_path / "run"), split="train")
    assert rows["prompt"] == ["a dog", "a dog", "a cat, a dog"]
    assert len(set(rows["id"])) == 3
    assert list(zip(rows["source"], rows["weight"], strict=True)) == [("web", 1), ("book", 2), ("web", 3)]


def test_batch_size_one_is_bit_identical_whatever_the_actors(
    finished: tuple[Path, str], runs: Session, tmp_path: Path, tiny_sd: Path, tiny_llava: Path
) -> None:
    """Two runs of the same seed, with another number of rows in flight and other shards, agree in every bit."""
    one = {"batch_size": 1}
    drive(runs, load_config(write_config(tmp_path, tiny_sd, tiny_llava, generators=one, scorers=one, rows_in_flight=1)))
    same = ["id", "image", "image_initial", "scores", "recipe", "noise"]
    ours, theirs = _rows(tmp_path / "run"), _rows(finished[0])
    assert [[row[name] for name in same] for row in ours] == [[row[name] for name in same] for row in theirs]


def test_four_generators_and_three_scorers_make_the_same_rows(
    finished: tuple[Path, str], tmp_path: Path, tiny_sd: Path, tiny_llava: Path
) -> None:
    """At batch size 1 every row equals that of one generator and one scorer in every bit."""
    generators = {"batch_size": 1, "count": 4, "num_cpus": 0.2}
    scorers = {"batch_size": 1, "count": 3, "num_cpus": 0.2}
    code, output = noisesmith(
        "run", write_config(tmp_path, tiny_sd, tiny_llava, generators=generators, scorers=scorers)
    )
    assert code == 0, output
    assert _rows(tmp_path / "run") == _rows(finished[0])


def test_larger_batches_draw_the_same_candidates(
    finished: tuple[Path, str], runs: Session, tmp_path: Path, tiny_sd: Path, tiny_llava: Path
) -> None:
    drive(runs, load_config(write_config(tmp_path, tiny_sd, tiny_llava)))
    for ours, theirs in zip(_rows(tmp_path / "run"), _rows(finished[0]), strict=True):
        assert ours["id"] == theirs["id"]
        assert ours["scores"] == pytest.approx(theirs["scores"], abs=1e-4)


def test_partitions_make_the_rows_of_the_undivided_run(
    finished: tuple[Path, str], runs: Session, tmp_path: Path, tiny_sd: Path, tiny_llava: Path
) -> None:
    """Two independent runs of whole shards, joined without writing one again."""
    one = {"batch_size": 1}
    dirs = [tmp_path / "first", tmp_path / "second"]
    for number, run_dir in enumerate(dirs, 1):
        where: dict[str, Any] = {"partition": f"{number}/2", "output": {"dir": str(run_dir)}}
        drive(
            runs, load_config(write_config(tmp_path, tiny_sd, tiny_llava, rows=6, generators=one, scorers=one, **where))
        )
    figures = [read_operations(run_dir) for run_dir in dirs]
    assert [(found["rows"], found["rows_written"], found["eta_seconds"]) for found in figures] == [(4, 4, 0), (2, 2, 0)]
    merge(dirs, tmp_path / "merged", print)
    assert _rows(tmp_path / "merged") == _rows(finished[0])
    assert verify_run(tmp_path / "merged", range(6)) == []
    rows = load_dataset(str(tmp_path / "merged"), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows["id"] == [row["id"] for row in read_rows(finished[0], ["id"])]
    assert noise_replays(tmp_path / "merged", rows["id"][5])


def noise_replays(run_dir: Path, name: str) -> bool:
    return replay_row(run_dir, config_of_row(run_dir, name), name).noise_identical
