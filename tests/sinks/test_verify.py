"""``verify`` is silent on a sound run, and names the file of each kind of damage."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.noise import digest, from_bytes, to_bytes
from noisesmith.pipeline.sinks import sample_rows, verify_run
from tests.sinks.conftest import Run, failure, png, result

PARQUET, TAR = "data/train-00000-of-00001.parquet", "tars/train-00000-of-00001.tar"


@pytest.fixture
def run(make_run: Callable[..., Run]) -> Run:
    """Three rows and a dead letter in one shard."""
    run = make_run(4)
    writer = run.writer()
    for row in run.rows:
        writer.fail(failure(row)) if row.index == 2 else writer.put(result(row))
    return run


def rewrite(run: Run, name: str, content: bytes) -> None:
    """Change a file and let the manifest agree, so that only a deeper look can tell."""
    path, manifest = run.dir / name, run.dir / "manifest.jsonl"
    path.write_bytes(content)
    header, entry = map(json.loads, manifest.read_text().splitlines())
    (listed,) = (file for file in entry["files"] if file["path"] == name)
    listed |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest.write_text(f"{json.dumps(header)}\n{json.dumps(entry)}\n")


def rewrite_table(run: Run, change: Callable[[pa.Table], pa.Table]) -> None:
    buffer = pa.BufferOutputStream()
    pq.write_table(change(pq.read_table(run.dir / PARQUET)), buffer)
    rewrite(run, PARQUET, buffer.getvalue().to_pybytes())


def with_column(name: str, values: list[Any]) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        place = table.schema.get_field_index(name)
        return table.set_column(place, table.schema.field(name), pa.array(values, table.schema.field(name).type))

    return change


def problems(run: Run) -> str:
    return "\n".join(verify_run(run.dir))


def test_a_sound_run_has_none(run: Run) -> None:
    assert verify_run(run.dir) == []


def test_an_unfinished_run_says_so(make_run: Callable[..., Run]) -> None:
    run = make_run()
    writer = run.writer()
    for row in run.rows[:5]:
        writer.put(result(row))
    assert verify_run(run.dir) == ["2 of 3 shards are not committed yet: finish the run with noisesmith retry"]


@pytest.mark.parametrize("name", [PARQUET, TAR])
def test_files_that_are_gone_cut_or_changed(run: Run, name: str) -> None:
    path = run.dir / name
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert f"{name}: has {len(content) - 1} bytes where the manifest says {len(content)}" in problems(run)
    path.write_bytes(content[:50] + bytes([content[50] ^ 1]) + content[51:])
    assert problems(run) == f"{name}: differs from its SHA-256 in the manifest"
    path.unlink()
    assert problems(run) == f"{name}: is missing"


@pytest.mark.parametrize("name", [PARQUET, TAR])
def test_files_that_cannot_be_read(run: Run, name: str) -> None:
    rewrite(run, name, b"nonsense" * 200)
    assert f"{name}: cannot be read" in problems(run)


def test_other_columns(run: Run) -> None:
    rewrite_table(run, lambda table: table.drop_columns(["topic"]))
    assert "has columns" in problems(run)


def test_rows_lost_doubled_or_out_of_order(run: Run) -> None:
    whole = pq.read_table(run.dir / PARQUET)
    for rows in ([0, 1], [0, 1, 1], [1, 0, 2], [0, 1, 2, 2]):
        reordered = whole.take(rows)

        def replaced(_: pa.Table, reordered: pa.Table = reordered) -> pa.Table:
            return reordered

        rewrite_table(run, replaced)
        assert "not the 3 of its shard, once each and in order" in problems(run)


def test_a_prompt_that_is_not_its_ids(run: Run) -> None:
    rewrite_table(run, with_column("prompt", ["a cat", "a cow", "prompt 3"]))
    assert f"row {run.rows[1].id}: the prompt is not the one of that id" in problems(run)
    assert f"{TAR}: differs from {PARQUET} in row {run.rows[1].id}" in problems(run)


def test_ids_other_than_those_committed(run: Run) -> None:
    manifest = run.dir / "manifest.jsonl"
    header, entry = map(json.loads, manifest.read_text().splitlines())
    manifest.write_text(f"{json.dumps(header)}\n{json.dumps(entry | {'ids_sha256': '0' * 64})}\n")
    assert "holds other ids than the manifest says" in problems(run)


def test_images_that_do_not_decode_or_have_another_size(run: Run) -> None:
    images = [{"bytes": content, "path": None} for content in (png(0), png(1)[:-30], png(3, (4, 4)))]
    rewrite_table(run, with_column("image", images))
    assert f"row {run.rows[1].id}: image does not decode" in problems(run)
    assert f"row {run.rows[3].id}: image is (4, 4) where the row says (8, 6)" in problems(run)


def test_a_score_that_the_search_never_saw(run: Run) -> None:
    rewrite_table(run, with_column("score", [0.75, 0.76, 0.75]))
    assert f"row {run.rows[1].id}: its score is none of its scores" in problems(run)


def test_recipes_of_the_rows_asked_for_rebuild_their_noise(run: Run) -> None:
    assert verify_run(run.dir, range(4)) == []
    recipes = pq.read_table(run.dir / PARQUET)["recipe"].to_pylist()
    recipes[1]["gammas"] = [0.31]
    rewrite_table(run, with_column("recipe", recipes))
    assert verify_run(run.dir, [0, 3]) == []
    expected = f"{PARQUET}: row {run.rows[1].id}: its rebuilt noise has another digest"
    assert verify_run(run.dir, [1]) == [expected]


def test_a_stored_noise_has_its_digest(make_run: Callable[..., Run]) -> None:
    run = make_run(2, optimizer={"method": "pgd"})
    writer = run.writer()
    noise = to_bytes(torch.arange(256.0).reshape(4, 8, 8))
    for row, stored in zip(run.rows, (noise, noise[:-2] + b"ab"), strict=True):
        made = result(row)
        recipe = replace(made.recipe, digest=digest(from_bytes(noise, (4, 8, 8))))
        writer.put(replace(made, recipe=recipe, noise_fp16=stored))
    assert [problem.partition(": ")[2] for problem in verify_run(run.dir, range(2))] == [
        f"row {run.rows[1].id}: its rebuilt noise has another digest"
    ] * 2


def test_a_sample_is_drawn_from_written_rows_always_the_same(run: Run) -> None:
    assert sample_rows(run.dir, 0) == set()
    assert sample_rows(run.dir, 9) == {0, 1, 3}
    assert sample_rows(run.dir, 2) == sample_rows(run.dir, 2)
    assert len(sample_rows(run.dir, 2)) == 2


def test_dead_letters_lost_or_damaged(run: Run) -> None:
    letters = run.dir / "failed" / "shard-00000.jsonl"
    letters.write_text("nonsense\n")
    assert "shard-00000.jsonl: is damaged" in problems(run)
    letters.unlink()
    assert f"dead letters [] where the manifest names ['{run.rows[2].id}']" in problems(run)


def test_a_directory_that_is_no_run(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="is not a run directory"):
            verify_run(path)
