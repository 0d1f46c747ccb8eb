"""A finished run and a further part with other prompts: one dataset, and old files stay as they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest

from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.extend import find_extension, open_parts, parts_to_make
from noisesmith.pipeline.report import rewrite_report
from noisesmith.pipeline.sinks import (
    SideWriter,
    check_run_dir,
    config_of_row,
    config_of_run,
    hold_run,
    hold_side,
    open_run,
    read_rows,
    reopen_failed,
    repair_run,
    sample_rows,
    verify_run,
)
from noisesmith.pipeline.sinks.manifest import read_manifest
from noisesmith.pipeline.storage.files import sha256_of
from noisesmith.pipeline.telemetry.status import read_status
from tests.extend.conftest import extend, made, make_missing, more_prompts
from tests.sinks.conftest import PROVENANCE, Run, failure
from tests.writing import RunWriter

MakeRun = Callable[..., Run]


def ids(run: Run) -> list[str]:
    return [row["id"] for row in read_rows(run.dir, ["id"])]


def hashes(run: Run) -> dict[Path, str]:
    return {path: sha256_of(path) for path in run.dir.glob("*/train-*")}


def test_all_parts_are_one_dataset(make_run: MakeRun) -> None:
    run = make_run()
    before, old_ids = hashes(run), ids(run)
    extend(run, [more_prompts(run)])
    extend(run, [more_prompts(run, "again.jsonl")])

    now = ids(run)
    assert now[:5] == old_ids
    assert [name[:8] for name in now] == [f"{index:08d}" for index in range(11)]
    assert {path: digest for path, digest in hashes(run).items() if path in before} == before
    names = [path.name for path in sorted(run.dir.glob("data/*"))]
    assert names == [
        *(f"train-{shard:05d}-of-00003.parquet" for shard in range(3)),
        *(f"train-{shard:05d}-of-00005.parquet" for shard in (3, 4)),
        *(f"train-{shard:05d}-of-00007.parquet" for shard in (5, 6)),
    ]
    assert verify_run(run.dir, sample_rows(run.dir, 11)) == []
    assert [row["topic"] for row in read_rows(run.dir, ["topic"])] == ["pets"] * 5 + ["cars"] * 6
    status = read_status(run.dir)
    assert (status.state, status.rows, status.rows_done, status.shards) == ("finished", 11, 11, 7)


def test_a_list_of_prompts_follows_a_grammar(make_run: MakeRun) -> None:
    """What chose the rows of the first source says nothing of the second."""
    run = make_run(corpus={"source": "embedded/simple", "size": 5, "seed": 3})
    (run.dir.parent / "more.txt").write_text("a cat\na dog\n")
    extend(run, [f"corpus.source={run.dir.parent / 'more.txt'}"])
    assert [row["prompt"] for row in read_rows(run.dir, ["prompt"])][5:] == ["a cat", "a dog"]


def test_names_of_columns_may_have_any_characters(tmp_path: Path) -> None:
    corpus = {"source": str(tmp_path / "p.jsonl"), "columns": {"rename": {"😀": "mood"}}}
    run = Run(tmp_path, [{"prompt": "a cat", "😀": 1}], corpus=corpus).write_all()
    columns: dict[str, Any] = {"😀": 7}
    extend(run, [more_prompts(run, **columns)])
    assert [row["mood"] for row in read_rows(run.dir, ["mood"])] == [1, 7, 7, 7]


def test_load_dataset_opens_all_parts_without_arguments(make_run: MakeRun) -> None:
    run = make_run()
    extend(run, [more_prompts(run)])
    rewrite_report(run.dir, run.config)
    loaded = datasets.load_dataset(str(run.dir))["train"]
    assert loaded["id"][:] == ids(run)
    assert loaded["n"][:] == [0, 1, 2, 3, 4, 7, 7, 7]
    assert "more.jsonl (3 rows)" in (run.dir / "README.md").read_text().replace("\\", "")


def test_only_an_extended_run_has_a_newer_version(make_run: MakeRun) -> None:
    run = make_run()
    first, _ = (run.dir / "manifest.jsonl").read_text().split("\n", 1)
    assert json.loads(first)["version"] == 5
    assert "parts" not in json.loads(first)
    extend(run, [more_prompts(run)])
    line = json.loads((run.dir / "manifest.jsonl").read_text().split("\n", 1)[0])
    assert line["version"] == 8
    (part,) = line["parts"]
    assert (part["number"], part["first_row"], part["first_shard"], part["rows"]) == (1, 5, 3, 3)


def test_the_same_command_resumes_and_then_has_nothing_to_do(make_run: MakeRun) -> None:
    run = make_run()
    override = more_prompts(run)
    extend(run, [override], rows=1)
    assert read_status(run.dir).state == "stopped"
    assert read_status(run.dir).rows_done == 6
    extend(run, [override])
    before = (run.dir / "manifest.jsonl").read_bytes()
    found = extend(run, [override])
    assert check_run_dir(found.config, found.corpus) == found.corpus.size == 3
    assert (run.dir / "manifest.jsonl").read_bytes() == before
    with hold_run(run.config, run.corpus, print) as first:
        assert len(first.done) == 5, "the first part is still what its own config says"


def test_a_part_without_some_columns_has_nulls(make_run: MakeRun) -> None:
    run = make_run()
    path = run.dir.parent / "plain.txt"
    path.write_text("a plane\n")
    extend(run, [f"corpus.source={path}"])
    *_, last = read_rows(run.dir, ["prompt", "topic", "n"])
    assert last == {"prompt": "a plane", "topic": None, "n": None}
    assert verify_run(run.dir) == []


def test_tars_of_all_parts_are_read(make_run: MakeRun) -> None:
    run = make_run(output={"formats": ["webdataset"], "tar_image_initial": True})
    extend(run, [more_prompts(run)])
    assert [row["n"] for row in read_rows(run.dir)] == [0, 1, 2, 3, 4, 7, 7, 7]
    assert verify_run(run.dir) == []


def test_in_an_object_store(make_run: MakeRun, url: str, tmp_path: Path) -> None:
    run = make_run(output={"dir": url})
    path = tmp_path / "plain.txt"
    path.write_text("a plane\n")
    extend(run, [f"corpus.source={path}"])
    extend(run, ["optimizer.rounds=3"], below=0.3)
    assert [row["prompt"] for row in read_rows(run.dir, ["prompt"])][5:] == [
        "a plane",
        "prompt 0",
        "prompt 1",
        "a plane",
    ]
    assert verify_run(run.dir, range(99)) == []


def refusal(run: Run, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        find_extension(run.dir, overrides)
    return str(caught.value)


def test_what_does_not_fit_the_run_is_refused(make_run: MakeRun) -> None:
    run = make_run()
    before = (run.dir / "manifest.jsonl").read_bytes()
    assert "nothing to extend it by" in refusal(run)
    assert "generators.steps was 50 and is now 7" in refusal(run, more_prompts(run), "generators.steps=7")
    assert "has a column 'colour'" in refusal(run, more_prompts(run, colour="red"))
    assert "its column 'n' is of type string" in refusal(run, more_prompts(run, n="seven"))
    assert "no such file" in refusal(run, "corpus.source=missing.txt")
    assert (run.dir / "manifest.jsonl").read_bytes() == before


def test_all_parts_have_one_acceptance_rule(make_run: MakeRun) -> None:
    run = make_run(accept={"score": 0.5})
    message = "accept: all parts of a run have one acceptance rule; leave it out, and set it with noisesmith accept "
    with pytest.raises(UserError, match=message):
        extend(run, [more_prompts(run), "accept.score=0.9"])
    extend(run, [more_prompts(run), "accept.score=0.5"])
    with pytest.raises(UserError, match=message):
        next(parts_to_make(run.dir, ["accept.score=0.9"]))


def test_prompts_that_were_added_may_not_change(make_run: MakeRun) -> None:
    run = make_run()
    override = more_prompts(run)
    extend(run, [override], rows=1)
    with (run.dir.parent / "more.jsonl").open("a") as file:
        file.write('{"prompt": "another one", "topic": "cars", "n": 7}\n')
    with pytest.raises(
        UserError, match=r"part of config-part1.yaml was started with another corpus: .* 3 rows .* a file of their own"
    ):
        extend(run, [override])


def test_an_unfinished_run_is_refused(make_run: MakeRun) -> None:
    run = make_run()
    lines = (run.dir / "manifest.jsonl").read_text().splitlines(keepends=True)
    (run.dir / "manifest.jsonl").write_text("".join(lines[:-1]))
    assert "1 of 3 shards are not committed yet; finish the run" in refusal(run, more_prompts(run))


def test_a_damaged_line_about_parts_is_refused_and_never_dropped(make_run: MakeRun) -> None:
    run = make_run()
    extend(run, [more_prompts(run)])
    manifest = run.dir / "manifest.jsonl"
    manifest.write_text(manifest.read_text().replace('"first_row": 5', '"first_row": 6', 1))
    with pytest.raises(UserError, match="does not begin where the one before it ends"):
        read_manifest(run.dir)


def test_side_tables_cover_all_parts(make_run: MakeRun) -> None:
    run = make_run()
    extend(run, [more_prompts(run)])
    with hold_side(run.dir, print) as check_lock:
        writer = SideWriter(run.dir, "length", pa.schema([("letters", pa.int32())]), check_lock)
        for shard in writer.missing({}):
            rows = list(writer.rows(shard, ["id", "prompt"]))
            writer.put(shard, [{"id": row["id"], "letters": len(row["prompt"])} for row in rows], {})
    assert [row["letters"] for row in read_rows(run.dir, ["letters"])] == [8] * 5 + [12] * 3
    assert (run.dir / "side/length/train-00003-of-00005.parquet").exists()
    assert verify_run(run.dir) == []
    extend(run, [more_prompts(run, "again.jsonl")])
    assert [row["letters"] for row in read_rows(run.dir, ["letters"])] == [8] * 5 + [12] * 3 + [None] * 3


def test_failed_rows_of_each_part_are_tried_again(make_run: MakeRun) -> None:
    run = make_run()
    found = find_extension(run.dir, [more_prompts(run)])
    with found.hold(print):
        corpus = found.corpus
        writer = RunWriter(run.dir, corpus.extra_schema, corpus.size, PROVENANCE, corpus.first)
        first, *others = corpus.rows()
        writer.fail(failure(first))
        for row in others:
            writer.put(made(row))
        assert (run.dir / "failed/shard-00003.jsonl").exists()
        first_part = open_run(run.config, run.corpus)
        assert reopen_failed(run.config, run.corpus, first_part)[1] == 0, "no row of the first part has failed"
        again, count = reopen_failed(found.config, corpus, open_run(found.config, corpus))
        assert (count, len(again.done)) == (1, 2)
        assert [row.index for row in corpus.rows(skip=again.done)] == [5]


def test_damage_in_any_part_is_repaired(make_run: MakeRun) -> None:
    run = make_run()
    override = more_prompts(run)
    extend(run, [override])
    rows = list(read_rows(run.dir))
    for name in ("data/train-00001-of-00003.parquet", "data/train-00003-of-00005.parquet"):
        (run.dir / name).write_bytes(b"damage")
    assert len(verify_run(run.dir)) == 2
    (first, *later) = open_parts(run.dir)
    found, _ = repair_run(*first, print, later=later)
    assert sorted(found.shards) == [1, 3]
    assert read_status(run.dir).rows_done == 4
    make_missing(run)
    extend(run, [override])
    assert verify_run(run.dir) == []
    assert list(read_rows(run.dir)) == rows


def test_the_config_of_each_part_is_kept(make_run: MakeRun) -> None:
    run = make_run()
    override = more_prompts(run)
    found = extend(run, [override])
    assert config_of_run(run.dir).semantic() == run.config.semantic()
    assert config_of_run(run.dir, number=1) == found.config
    assert config_of_row(run.dir, ids(run)[-1]) == found.config
    assert config_of_row(run.dir, "nonsense").semantic() == run.config.semantic()
