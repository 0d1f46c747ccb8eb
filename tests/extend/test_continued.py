"""Searches that go on in new rows: which, from where, and what rebuilds their noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.extend import find_extension, open_parts, parts_to_make
from noisesmith.pipeline.noise import NoiseKey, digest, replay, update
from noisesmith.pipeline.records import Recipe
from noisesmith.pipeline.sinks import read_rows, repair_run, sample_rows, verify_run
from noisesmith.pipeline.sinks.manifest import read_manifest
from tests.extend.conftest import extend, make_missing, more_prompts
from tests.sinks.conftest import Run

MakeRun = Callable[..., Run]
COLUMNS = ["id", "prompt", "parent_id", "rounds", "score", "recipe", "topic", "n"]


def rows_of(run: Run) -> list[dict[str, Any]]:
    return list(read_rows(run.dir, COLUMNS))


def test_rows_below_the_score_go_on_in_new_rows(make_run: MakeRun) -> None:
    run = make_run()
    before = rows_of(run)
    extend(run, ["optimizer.rounds=3"], below=0.5)

    rows = rows_of(run)
    assert rows[:5] == before
    assert [row["parent_id"] for row in before] == [None] * 5
    assert [row["parent_id"] for row in rows[5:]] == [row["id"] for row in before[:3]]
    assert [row["id"] for row in rows[5:]] == [f"{5 + n:08d}-{before[n]['id'][9:]}" for n in range(3)]
    for row, parent in zip(rows[5:], before, strict=False):
        assert (row["prompt"], row["topic"], row["n"]) == (parent["prompt"], "pets", parent["n"])
        assert row["rounds"] == 3
    assert verify_run(run.dir, sample_rows(run.dir, 8)) == []


def test_noise_is_drawn_as_in_the_search_that_goes_on(make_run: MakeRun) -> None:
    """Against the update written out: the first row's noise, its move, then the moves of those that go on from it."""
    run = make_run()
    extend(run, ["optimizer.rounds=3"], below=0.15)
    extend(run, ["optimizer.rounds=5"], below=0.15)
    first, *_, second, third = rows_of(run)
    assert (second["parent_id"], third["parent_id"]) == (first["id"], second["id"])
    recipe = Recipe.from_row(third["recipe"])
    assert recipe.rounds == (1, 3, 5)
    noise = NoiseKey(7, first["id"], 0).draw(0, (4, 8, 8))
    for number, gamma, index in ((1, 0.1 + 0.2, 0), (3, 0.25, 5), (5, 0.25, 6)):
        noise = update(noise, gamma, NoiseKey(7, first["id"], number).draw(index, (4, 8, 8)))
    assert digest(noise) == recipe.digest
    manifest = read_manifest(run.dir)
    assert manifest.search_id(third["id"]) == first["id"]
    assert digest(replay(recipe, third["id"])) != recipe.digest, "its own id draws other noises"
    assert verify_run(run.dir, range(7)) == []


def test_only_the_last_row_of_a_search_goes_on(make_run: MakeRun) -> None:
    run = make_run()
    extend(run, ["optimizer.rounds=3"], below=0.5)  # scores 0, 0.2 and 0.4 become 0.1, 0.3 and 0.5
    found = extend(run, ["optimizer.rounds=5"], below=0.5)
    assert found.parents == (5, 6)
    found = extend(run, ["optimizer.rounds=9"], below=1.0)
    assert found.parents == (8, 9, 7, 3, 4), "in the order in which the searches began"
    assert verify_run(run.dir, range(99)) == []


def test_searches_of_later_prompts_go_on_too(make_run: MakeRun) -> None:
    run = make_run()
    override = more_prompts(run)
    extend(run, [override])
    found = extend(run, ["optimizer.rounds=3"], below=1)
    assert found.parents == tuple(range(8))
    *_, last = rows_of(run)
    assert (last["prompt"], last["topic"], last["n"]) == ("more.jsonl 2", "cars", 7)
    assert extend(run, [override]).parents == (), "the command that added the prompts still means them"
    assert verify_run(run.dir, range(99)) == []


def test_columns_that_prompts_lack_are_null_in_rows_that_go_on(make_run: MakeRun) -> None:
    run = make_run()
    path = run.dir.parent / "plain.txt"
    path.write_text("a plane\n")
    extend(run, [f"corpus.source={path}"])
    extend(run, ["optimizer.rounds=3"], below=1)
    rows = rows_of(run)
    assert [row["prompt"] for row in rows[6:]] == [row["prompt"] for row in rows[:6]]
    assert (rows[-1]["topic"], rows[-1]["n"]) == (None, None)
    assert verify_run(run.dir, range(99)) == []


def test_the_same_command_resumes_and_then_has_nothing_to_do(make_run: MakeRun) -> None:
    run = make_run()
    extend(run, ["optimizer.rounds=3"], below=0.5, rows=1)
    extend(run, ["optimizer.rounds=3"], below=0.5)
    before = (run.dir / "manifest.jsonl").read_bytes()
    extend(run, ["optimizer.rounds=3"], below=0.5)
    assert (run.dir / "manifest.jsonl").read_bytes() == before
    assert len(rows_of(run)) == 8


@pytest.mark.parametrize(
    ("below", "overrides", "message"),
    [
        (0.5, [], "no search below a score of 0.5 that has taken fewer than 1 rounds"),
        (1e-9, ["optimizer.rounds=1"], "no search below a score of 1e-09"),
        (-1, ["optimizer.rounds=3"], "--below -1: is not a score"),
        (math.nan, ["optimizer.rounds=3"], "--below nan: is not a score"),
        (0.5, ["optimizer.rounds=3", "corpus.column=topic"], "have the prompts that they began with"),
        (0.5, ["optimizer.rounds=3", "optimizer.candidates=4"], "optimizer.candidates was 50 and is now 4"),
    ],
)
def test_what_cannot_go_on_is_refused(make_run: MakeRun, below: float, overrides: list[str], message: str) -> None:
    run = make_run(optimizer={"rounds": 1})
    with pytest.raises(UserError, match=message):
        find_extension(run.dir, overrides, below)


def test_a_method_without_recipes_is_refused(make_run: MakeRun) -> None:
    run = make_run(optimizer={"method": "initno"}, output={"noise": False})
    with pytest.raises(UserError, match="initno has no recipe for its noise from which a search could go on"):
        find_extension(run.dir, [], 0.5)


def test_damage_is_repaired_and_rows_are_made_again_in_order(make_run: MakeRun) -> None:
    """A row that goes on needs the one before it; recognising it needs no row at all."""
    run = make_run()
    extend(run, ["optimizer.rounds=3"], below=0.5)
    rows = list(read_rows(run.dir))
    for name in ("data/train-00000-of-00003.parquet", "data/train-00003-of-00005.parquet"):
        (run.dir / name).write_bytes(b"damage")
    first, *later = open_parts(run.dir)
    repair_run(*first, print, later=later)
    parts = iter(parts_to_make_without_checks(run))
    next(parts)
    with pytest.raises(UserError, match="2 rows whose searches go on are not committed"):
        next(parts)
    make_missing(run)
    extend(run, ["optimizer.rounds=3"], below=0.5)
    assert verify_run(run.dir, range(99)) == []
    assert list(read_rows(run.dir)) == rows


def parts_to_make_without_checks(run: Run) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("noisesmith.pipeline.extend.parts.check_run", lambda config: (None, run.corpus))
        yield from parts_to_make(run.dir, [])
