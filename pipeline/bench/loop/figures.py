"""The figures of a comparison with the loop, from what was measured, without models or clock."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from noisesmith.pipeline.bench.loop.measure import Measured
from noisesmith.pipeline.bench.loop.worker import LoopRow
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.report.summary import Estimate, Row, estimates

SAME_SCORE = 1e-3  # two searches that took the same candidates differ by rounding only


@dataclass(frozen=True)
class Spread:
    """The median of repeats, with the lowest and the highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Line:
    """One command over all repeats.

    Attributes:
        rows: made per repeat.
        images_per_row: mean.
        wall_seconds: of the whole command; ``outside`` of its start and end.
        rows_per_minute: between start and end.
        faster: how many times as many rows per minute `noisesmith run` makes, paired by repeat; ``None`` for itself.
        faster_whole: the same for commands that make as many rows as the run did, start and end included.
    """

    rows: int
    images_per_row: float
    wall_seconds: Spread
    outside: Spread
    rows_per_minute: Spread
    faster: Spread | None = None
    faster_whole: Spread | None = None


@dataclass(frozen=True)
class Judged:
    """What one judge says of kept images, by prompt; ``None`` where it can say nothing.

    Attributes:
        run: of the search that may stop early.
        loop: of the loop's search over the same prompts.
        difference: run − loop, paired by prompt.
        loop_rows: of the rows that the loop itself has made.
    """

    run: Estimate | None
    loop: Estimate | None
    difference: Estimate | None
    loop_rows: Estimate | None


@dataclass(frozen=True)
class Truth:
    """The comparison to equal judged truth.

    Attributes:
        run: the search that may stop early.
        loop: the loop at its full rounds.
        loop_early: the loop, if it stopped as the run does: its seconds per image, for the images per row of the run.
        judges: by name.
        prompts: that the judges have looked at.
        loop_rows: made by the loop itself, in all repeats; of these ``same`` have the same kept score, to rounding, in
            the search of the loop that `noisesmith run` made.
    """

    run: Line
    loop: Line
    loop_early: Line
    judges: dict[str, Judged]
    prompts: int
    loop_rows: int
    same: int


def compare_with(run: Sequence[Measured], loop: Sequence[Measured]) -> Line:
    """The line of a loop, compared with a run, repeat by repeat."""
    line = line_of(loop)
    pairs = list(zip(run, loop, strict=True))
    faster = [ours.rows_per_minute / theirs.rows_per_minute for ours, theirs in pairs]
    whole = [theirs.seconds_for(ours.rows) / ours.wall_seconds for ours, theirs in pairs]
    return Line(**vars(line) | {"faster": Spread.of(faster), "faster_whole": Spread.of(whole)})


def line_of(measured: Sequence[Measured]) -> Line:
    """The line of a command that is compared with nothing."""
    return Line(
        rows=measured[0].rows,
        images_per_row=sum(one.images for one in measured) / sum(one.rows for one in measured),
        wall_seconds=Spread.of([one.wall_seconds for one in measured]),
        outside=Spread.of([one.outside for one in measured]),
        rows_per_minute=Spread.of([one.rows_per_minute for one in measured]),
    )


def truth_of(
    run: Sequence[Measured],
    loop: Sequence[Measured],
    run_rows: Mapping[str, Row],
    loop_rows: Mapping[str, Row],
    judges: Sequence[str],
) -> Truth:
    """The comparison to equal judged truth.

    Args:
        run_rows, loop_rows: by row id, the rows of the run that may stop early, and of the loop's search over the same
            prompts by `noisesmith run`, with ``score`` and the judges' columns.

    Raises:
        UserError: no row was finished by both.
    """
    shared = sorted(run_rows.keys() & loop_rows.keys())
    if not shared:
        raise UserError("no row was finished by both searches; see why in the runs' failed/")
    own = [row for one in loop for row in one.found]
    judged: dict[str, Judged] = {}
    for judge in judges:
        column = f"judge_{judge}"
        pairs = np.array([[run_rows[row][column], loop_rows[row][column]] for row in shared], dtype=np.float64).T
        known = pairs[:, ~np.isnan(pairs).any(axis=0)]  # NaN for null
        own_rows = _own_estimate(own, judge)
        judged[judge] = Judged(None, None, None, own_rows)
        if known.size:
            ours, theirs, difference = estimates(np.stack([known[0], known[1], known[0] - known[1]]))
            judged[judge] = Judged(ours, theirs, difference, own_rows)
    same = [row for row in own if row.id in loop_rows and _same(max(row.scores), loop_rows[row.id]["score"])]
    early = [_as_early(ours, theirs) for ours, theirs in zip(run, loop, strict=True)]
    return Truth(
        run=line_of(run),
        loop=compare_with(run, loop),
        loop_early=compare_with(run, early),
        judges=judged,
        prompts=len(shared),
        loop_rows=len(own),
        same=len(same),
    )


def _as_early(run: Measured, loop: Measured) -> Measured:
    """The loop, if it made as many images per row as the run, each in the time that it has taken for one."""
    seconds = run.images * loop.seconds / loop.images
    return Measured(loop.outside + seconds, seconds, run.rows, run.images)


def _own_estimate(rows: Sequence[LoopRow], judge: str) -> Estimate | None:
    """The mean of the loop's own rows; a prompt that came up twice counts once."""
    by_id = {row.id: row.judges[judge] for row in rows}
    known = [score for score in by_id.values() if score is not None]
    return estimates(np.array([known]))[0] if known else None


def _same(score: float, other: float) -> bool:
    return abs(score - other) <= SAME_SCORE
