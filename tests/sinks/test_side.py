"""Side tables: committed as safely as shards, joined by ``read_rows``, checked by ``verify``, dropped by a repair."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from noisesmith.pipeline.config import load_config
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.prompts import open_corpus
from noisesmith.pipeline.sinks import (
    SideWriter,
    hold_side,
    open_run,
    read_rows,
    reopen_failed,
    repair_run,
    started_corpus,
    verify_run,
)
from noisesmith.pipeline.sinks.header import VERSION
from noisesmith.pipeline.sinks.manifest import read_manifest
from noisesmith.pipeline.sinks.reader import read_tar
from tests.s3 import S3
from tests.sinks.conftest import WITH_FIRST, Run, failure, result
from tests.sinks.test_crashes import Killed, killed_at

MakeRun = Callable[..., Run]
SHARPNESS = pa.schema([("sharpness", pa.float64()), ("tags", pa.list_(pa.string()))])
FIRST_MODEL, SECOND_MODEL = {"model": "eye", "revision": "1"}, {"model": "eye", "revision": "2"}
OLD = Path(__file__).parents[1] / "data" / "old_run"


def write_table(run_dir: Path, origin: dict[str, str] = FIRST_MODEL, name: str = "sharp", shards: int = 99) -> None:
    """Write what the table lacks, of at most so many shards; the values follow from the ids and the origin."""
    with hold_side(run_dir, print) as lock:
        writer = SideWriter(run_dir, name, SHARPNESS, lock)
        for shard in writer.missing(origin)[:shards]:
            writer.put(shard, [_values(row_id, origin) for row_id in ids_of(run_dir, shard)], origin)


def _values(row_id: str, origin: dict[str, str]) -> dict[str, Any]:
    return {"id": row_id, "sharpness": int(row_id[:8]) + float(origin["revision"]) / 10, "tags": ["a"]}


def ids_of(run_dir: Path, shard: int) -> list[str]:
    layout = read_manifest(run_dir).header.layout
    return [row["id"] for row in read_rows(run_dir, ["id"]) if layout.shard_of(int(row["id"][:8])) == shard]


def side_files(run_dir: Path) -> list[str]:
    return sorted(str(path.relative_to(run_dir)) for path in run_dir.rglob("side/**/*") if path.is_file())


def sharpness(run_dir: Path) -> list[float | None]:
    return [row["sharpness"] for row in read_rows(run_dir, ["sharpness"])]


@pytest.mark.parametrize("formats", [["parquet"], ["webdataset"]])
def test_columns_of_a_table_are_joined_to_the_rows(make_run: MakeRun, formats: list[str]) -> None:
    run = make_run(output={"formats": formats}).write_all()
    plain = list(read_rows(run.dir))
    write_table(run.dir)
    rows = list(read_rows(run.dir))
    assert [row.pop("sharpness") for row in rows] == [n + 0.1 for n in range(10)]
    assert [row.pop("tags") for row in rows] == [["a"]] * 10
    assert rows == plain
    row = next(read_rows(run.dir, ["sharpness", "n", "id"]))
    assert list(row.items()) == [("sharpness", 0.1), ("n", 0), ("id", run.rows[0].id)]
    assert verify_run(run.dir) == []
    assert side_files(run.dir) == [f"side/sharp/train-0000{shard}-of-00003.parquet" for shard in range(3)]
    file = pq.read_table(run.dir / side_files(run.dir)[2])
    assert file.column_names == ["id", "sharpness", "tags"]
    assert file["id"].to_pylist() == [row.id for row in run.rows[8:]]


def test_what_a_table_lacks_is_null(make_run: MakeRun) -> None:
    run = make_run().write_all()
    write_table(run.dir, shards=1)
    assert sharpness(run.dir) == [0.1, 1.1, 2.1, 3.1, *[None] * 6]
    assert verify_run(run.dir) == []
    write_table(run.dir)
    assert sharpness(run.dir) == [n + 0.1 for n in range(10)]


def test_shards_of_another_origin_are_made_again(make_run: MakeRun) -> None:
    run = make_run().write_all()
    write_table(run.dir)
    write_table(run.dir, SECOND_MODEL, shards=2)
    assert sharpness(run.dir) == [n + 0.2 for n in range(8)] + [8.1, 9.1]
    write_table(run.dir, SECOND_MODEL)
    assert sharpness(run.dir) == [n + 0.2 for n in range(10)]
    assert verify_run(run.dir) == []


def test_a_writer_killed_at_every_step_leaves_whole_tables(make_run: MakeRun) -> None:
    """Each shard has the values of before or after, or none, and the next writer completes the table."""
    run = make_run(3, output={"rows_per_shard": 2}).write_all()
    write_table(run.dir, shards=1)
    saved = run.dir.with_name("saved")
    shutil.copytree(run.dir, saved)
    step = 0
    while True:
        with killed_at(step):
            try:
                write_table(run.dir, SECOND_MODEL)
                break
            except Killed:
                pass
        (run.dir / ".lock").unlink(missing_ok=True)
        found = sharpness(run.dir)
        assert found[:2] in ([0.1, 1.1], [0.2, 1.2], [None, None])
        assert found[2] in (None, 2.2)
        assert verify_run(run.dir) == []
        write_table(run.dir, SECOND_MODEL)
        assert sharpness(run.dir) == [0.2, 1.2, 2.2]
        assert verify_run(run.dir) == []
        assert side_files(run.dir) == [f"side/sharp/train-0000{shard}-of-00002.parquet" for shard in range(2)]
        shutil.rmtree(run.dir)
        shutil.copytree(saved, run.dir)
        step += 1
    assert step > 12


def test_orphans_go_and_strangers_stay(make_run: MakeRun) -> None:
    run = make_run().write_all()
    write_table(run.dir, shards=1)
    folder = run.dir / "side" / "sharp"
    for name in ("train-00001-of-00003.parquet", ".train-00002-of-00003.parquet.ab.tmp", "notes.txt"):
        (folder / name).write_text("x")
    open_run(run.config, run.corpus)
    assert sorted(path.name for path in folder.iterdir()) == ["notes.txt", "train-00000-of-00003.parquet"]


@pytest.mark.parametrize(
    ("name", "columns", "message"),
    [
        ("default", ["x"], "choose another"),
        ("data", ["x"], "choose another"),
        ("Sharp", ["x"], "choose another"),
        ("a/b", ["x"], "choose another"),
        ("eye", ["judge_eye"], "side table eye: the run has a column 'judge_eye' already; choose another name"),
        ("own", ["n"], "the run has a column 'n' already"),
        ("other", ["tags"], "its side table sharp has a column 'tags' already"),
        ("sharp", ["blur"], "a table of this name with other columns .sharpness, tags.; choose another name"),
    ],
)
def test_names_that_clash_are_refused(make_run: MakeRun, name: str, columns: list[str], message: str) -> None:
    run = make_run().write_all()
    write_table(run.dir)
    schema = pa.schema([(column, pa.string()) for column in columns])
    with hold_side(run.dir, print) as lock, pytest.raises(UserError, match=message):
        SideWriter(run.dir, name, schema, lock)


def test_a_type_that_datasets_cannot_read_is_refused(make_run: MakeRun) -> None:
    run = make_run().write_all()
    schema = pa.schema([("tags", pa.map_(pa.string(), pa.int64()))])
    message = (
        r"side table sharp: load_dataset cannot read the type map<string, int64> of its column 'tags'; use another"
    )
    with hold_side(run.dir, print) as lock, pytest.raises(UserError, match=message):
        SideWriter(run.dir, "sharp", schema, lock)


def test_two_tables_are_written_at_once(make_run: MakeRun) -> None:
    run = make_run().write_all()
    with hold_side(run.dir, print) as lock:
        writers = [SideWriter(run.dir, name, pa.schema([(f"of_{name}", pa.int64())]), lock) for name in ("a", "b")]
        for shard in writers[0].missing(FIRST_MODEL):
            for writer in writers:
                rows = [{"id": row_id, f"of_{writer.name}": int(row_id[:8])} for row_id in ids_of(run.dir, shard)]
                writer.put(shard, rows, FIRST_MODEL)
    assert list(read_rows(run.dir, ["of_a", "of_b"])) == [{"of_a": n, "of_b": n} for n in range(10)]
    assert verify_run(run.dir) == []


def test_rows_of_another_shard_are_a_bug(make_run: MakeRun) -> None:
    run = make_run().write_all()
    with hold_side(run.dir, print) as lock:
        writer = SideWriter(run.dir, "sharp", SHARPNESS, lock)
        with pytest.raises(ValueError, match="not those of shard 1"):
            writer.put(1, [{"id": row_id} for row_id in ids_of(run.dir, 0)], FIRST_MODEL)
    assert side_files(run.dir) == []


def _damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "said"),
    [(_damage, "differs from its SHA-256"), (Path.unlink, "is missing"), (lambda path: os.truncate(path, 9), "has 9 ")],
)
def test_damage_is_found_dropped_and_made_again(make_run: MakeRun, damage: Callable[[Path], None], said: str) -> None:
    run = make_run().write_all()
    write_table(run.dir)
    name = side_files(run.dir)[1]
    damage(run.dir / name)
    (problem,) = verify_run(run.dir)
    assert problem.startswith(f"{name}: {said}")
    found, state = repair_run(run.config, run.corpus, print)
    assert found.problems == [problem]
    assert len(state.done) == 10
    assert verify_run(run.dir) == []
    assert sharpness(run.dir) == [0.1, 1.1, 2.1, 3.1, None, None, None, None, 8.1, 9.1]
    write_table(run.dir)
    assert sharpness(run.dir) == [n + 0.1 for n in range(10)]


def test_a_file_of_other_rows_is_found(make_run: MakeRun) -> None:
    """Its size and hash are those of the manifest, as after a mistake of ours."""
    run = make_run().write_all()
    write_table(run.dir)
    manifest = run.dir / "manifest.jsonl"
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    first, second = [line for line in lines if line["kind"] == "side"][:2]
    one, other = run.dir / side_files(run.dir)[0], run.dir / side_files(run.dir)[1]
    shutil.copy(one, other)
    second |= {"bytes": first["bytes"], "sha256": first["sha256"]}
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert verify_run(run.dir) == ["side/sharp/train-00001-of-00003.parquet: holds other rows than its shard"]
    with pytest.raises(UserError, match=r"train-00001-of-00003.parquet: cannot be read .has other rows"):
        sharpness(run.dir)


def test_a_shard_that_is_rebuilt_byte_for_byte_keeps_its_table(make_run: MakeRun) -> None:
    run = make_run(output=WITH_FIRST).write_all()
    write_table(run.dir)
    (run.dir / "data" / "train-00000-of-00003.parquet").unlink()
    repair_run(run.config, run.corpus, print)
    assert verify_run(run.dir) == []
    assert sharpness(run.dir) == [n + 0.1 for n in range(10)]


def test_a_shard_with_other_rows_loses_its_table_and_only_that(make_run: MakeRun) -> None:
    run = make_run()
    writer = run.writer()
    for row in run.rows:
        writer.fail(failure(row)) if row.index == 5 else writer.put(result(row))
    write_table(run.dir)
    reopen_failed(run.config, run.corpus, open_run(run.config, run.corpus))
    run.writer().put(result(run.rows[5]))
    assert verify_run(run.dir) == []
    assert sharpness(run.dir) == [0.1, 1.1, 2.1, 3.1, None, None, None, None, 8.1, 9.1]
    open_run(run.config, run.corpus)
    assert len(side_files(run.dir)) == 2
    write_table(run.dir)
    assert sharpness(run.dir) == [n + 0.1 for n in range(10)]


def test_a_shard_of_dead_letters_needs_no_file(make_run: MakeRun) -> None:
    run = make_run()
    writer = run.writer()
    for row in run.rows:
        writer.fail(failure(row)) if row.index < 4 else writer.put(result(row))
    write_table(run.dir)
    assert sharpness(run.dir) == [n + 0.1 for n in range(4, 10)]
    assert len(side_files(run.dir)) == 2


def test_a_run_of_this_version_keeps_it_with_side_tables(make_run: MakeRun) -> None:
    """A program that does not know them does not know this version either."""
    run = make_run().write_all()
    write_table(run.dir)
    assert read_manifest(run.dir).header.version == VERSION == 5


def test_a_run_of_an_older_version_takes_one_and_keeps_its_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    old = load_config("config.yaml")
    write_table(old.run_dir)
    assert read_manifest(old.run_dir).header.version == 3
    state = open_run(old, open_corpus(old, started_corpus(old)))
    assert len(state.done) == 5
    (problem,) = verify_run(old.run_dir, range(4))
    assert problem == "1 of 2 shards are not committed yet: finish the run with noisesmith retry"
    tar = old.run_dir / "data" / "train-00000-of-00002.tar"
    for row in read_tar(tar, ["image_id"], read_manifest(old.run_dir).header.text_columns):
        assert type(row["image_id"]) is int
    assert sharpness(old.run_dir) == [n + 0.1 for n in range(4)]


def test_in_an_object_store(s3: S3, make_run: MakeRun, url: str) -> None:
    run = make_run(2, output={"dir": url, "rows_per_shard": 1, "formats": ["parquet"]}).write_all()
    write_table(run.dir, shards=1)
    write_table(run.dir, SECOND_MODEL)
    assert sharpness(run.dir) == [0.2, 1.2]
    (run.dir / "side" / "sharp" / "train-00001-of-00002.parquet").unlink()
    assert verify_run(run.dir) == ["side/sharp/train-00001-of-00002.parquet: is missing"]
    repair_run(run.config, run.corpus, print)
    assert sharpness(run.dir) == [0.2, None]
