"""A corpus's rows pass through and are not kept; ``python -m tests.load.million`` measures it with a million."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.prompts import Corpus, open_corpus
from noisesmith.pipeline.records import row_id
from tests.load.corpora import FORMATS, row, write_corpus

FEW, MANY = 4_000, 20_000


@pytest.fixture(params=FORMATS)
def paths(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """A small and a large corpus of one format."""
    few, many = (tmp_path / f"{rows}.{request.param}" for rows in (FEW, MANY))
    write_corpus(few, FEW)
    write_corpus(many, MANY)
    return few, many


def opened(path: Path) -> Corpus:
    return open_corpus(RunConfig.model_validate({"corpus": {"source": str(path)}}))


def peak(path: Path, rows: int) -> int:
    """The most Python memory that was held at once while a corpus is opened and gone through, in bytes."""
    tracemalloc.start()
    try:
        assert sum(1 for _ in opened(path).rows(skip=range(rows // 2))) == rows - rows // 2
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_corpus(paths: tuple[Path, Path]) -> None:
    """16,000 rows more need less than 320 kB more at the peak; their ids alone would be more than 1 MB."""
    few, many = paths
    # Three times each: the first pays for what is made once, and a thread of an earlier test may be at work in one.
    lowest = {rows: min(peak(path, rows) for _ in range(3)) for path, rows in ((few, FEW), (many, MANY))}
    assert lowest[MANY] < lowest[FEW] + 320_000


def test_ids_are_those_of_a_small_run(paths: tuple[Path, Path]) -> None:
    small, large = map(opened, paths)
    ids = [one.id for one in large.rows(stop=FEW)]
    assert ids == [one.id for one in small.rows()] == [row_id(n, row(n)["prompt"]) for n in range(FEW)]
