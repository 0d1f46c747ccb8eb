"""A run goes on only with the weights that made its rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from noisesmith.pipeline.config import GeneratorConfig, RunConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.generators import find_generator
from noisesmith.pipeline.preflight import check_run, find_models
from noisesmith.pipeline.records import Provenance
from noisesmith.pipeline.replay import _as_then
from noisesmith.pipeline.sinks import open_run
from tests.sinks.conftest import PROVENANCE, Run, result
from tests.writing import RunWriter


def _write(run: Run, rows: int, provenance: Provenance) -> None:
    open_run(run.config, run.corpus)
    writer = RunWriter(run.dir, run.corpus.extra_schema, run.corpus.size, provenance)
    for row in run.rows[:rows]:
        writer.put(result(row))


@pytest.mark.parametrize("rows", [1, 4], ids=["staged", "committed"])
def test_other_weights_are_refused_before_anything_is_loaded(rows: int, make_run: Callable[..., Run]) -> None:
    run = make_run()
    _write(run, rows, replace(PROVENANCE, generator_revision="ab12"))
    before = {path: path.read_bytes() for path in run.dir.rglob("*") if path.is_file()}
    with pytest.raises(UserError) as caught:
        check_run(run.config)
    assert str(caught.value) == (
        f"generators.model: the rows of {run.dir} were made with revision ab12 of 'embedded', and "
        f"'embedded' is {find_models(run.config).generator.revision} now; put the files back that made them, or choose "
        "another output.dir"
    )
    assert {path: path.read_bytes() for path in run.dir.rglob("*") if path.is_file()} == before


def test_each_scorer_is_compared(make_run: Callable[..., Run]) -> None:
    run = make_run()
    _write(run, 4, replace(PROVENANCE, scorer_revision="cd34"))
    with pytest.raises(UserError, match=r"^scorers\.model: the rows of .* were made with revision cd34 of 'embedded'"):
        check_run(run.config)


def test_the_same_weights_go_on(make_run: Callable[..., Run]) -> None:
    run = make_run()
    _write(run, 5, PROVENANCE)
    check_run(run.config)


def test_a_shard_that_cannot_be_read_is_left_to_verify(make_run: Callable[..., Run]) -> None:
    run = make_run()
    _write(run, 4, replace(PROVENANCE, generator_revision="ab12"))
    for path in (run.dir / "data").iterdir():
        path.write_bytes(b"damaged")
    check_run(run.config)


def test_a_run_of_the_newest_models_is_not_mixed_with_older_ones(make_run: Callable[..., Run]) -> None:
    run = make_run()
    _write(run, 4, PROVENANCE)
    models = {"generators": {"model": "embedded/v1"}, "scorers": {"model": "embedded/v1"}}
    older = RunConfig.model_validate(run.config.model_dump() | models)
    with pytest.raises(UserError, match=r"; set generators\.model=embedded scorers\.model=embedded judges\.0\.model="):
        check_run(older)


def test_a_replay_uses_the_version_that_made_the_row() -> None:
    generators = GeneratorConfig(steps=4)
    first = find_generator(GeneratorConfig(model="embedded/v1"))
    assert _as_then(generators, first.revision) == GeneratorConfig(model="embedded/v1", steps=4)
    assert _as_then(generators, find_generator(generators).revision) == generators
    assert _as_then(generators, "local-0000000000000000") == generators
