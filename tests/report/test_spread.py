"""What the card says of single rows: bins of scores, values of corpus columns, classes of errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from noisesmith.pipeline.records import Result, Row
from noisesmith.pipeline.report import write_report
from noisesmith.pipeline.report.facts import read_facts
from tests.report.conftest import PROVENANCE
from tests.sinks.conftest import Run, failure, result


def scored(row: Row) -> Result:
    """Row n goes from n/100 to n/10, the last one to 1."""
    made = result(row, row.index / 10)
    return replace(made, scores=(row.index / 100, row.index / 10))


def test_rows_are_counted_by_score_by_value_and_by_error(tmp_path: Path) -> None:
    lines = [{"prompt": f"p {n}", "topic": "a|b" if n < 8 else "c", "key": f"k{n}", "n": n} for n in range(14)]
    run = Run(tmp_path, lines)
    writer = run.writer()
    for row in run.rows[:11]:
        writer.put(scored(row))
    for row in run.rows[11:]:
        writer.fail(failure(row))
    spread = read_facts(run.dir, run.config).spread
    assert [first for first, _ in spread.bins] == [10, 1, *[0] * 8]
    assert [kept for _, kept in spread.bins] == [*[1] * 9, 2]  # 1.0 is in the last bin
    assert spread.errors == {"OutOfMemoryError": 3}
    assert list(spread.categories) == ["topic"]  # every key stands once
    many, few = spread.categories["topic"]
    assert (many.value, many.rows) == ("a|b", 8)
    assert (few.value, few.rows) == ("c", 3)
    assert (few.first, few.kept) == pytest.approx((0.09, 0.9))
    write_report(run.dir, run.config, PROVENANCE, {})
    card = (run.dir / "README.md").read_text()
    assert "3 rows failed (OutOfMemoryError 3)" in card
    assert "| 0.9 to 1.0 | 0 | 2 |" in card
    assert "| a\\|b | 8 | 0.035 | 0.350 |" in card
    assert "eprint = {2411.16503}" in card
