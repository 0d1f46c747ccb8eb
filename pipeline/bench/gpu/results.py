"""What became of a cell, kept in one JSON file per cell."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from noisesmith.pipeline.bench.gpu.cells import Cell
from noisesmith.pipeline.bench.gpu.measure import Measured
from noisesmith.pipeline.bench.gpu.timeline import STAGES
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.storage.files import make_dir, write_atomic

MEASURED, OUT_OF_MEMORY, FAILED = "measured", "out of memory", "failed"


@dataclass(frozen=True)
class Outcome:
    """What became of a cell.

    Attributes:
        outcome: ``measured``, ``out of memory`` or ``failed``.
        reason: what a library said, where it was not measured.
    """

    outcome: str
    reason: str = ""
    measured: Measured | None = None


@dataclass(frozen=True)
class Figures:
    """What follows from a measured cell.

    Attributes:
        round_seconds: of a round of the whole batch; ``row_seconds`` per row of it.
        roofline: the least time that the operations need at the measured peak, as a share of the time taken.
        shares: of the time of a round, by stage.
        faster: the seconds per round of the sequential loop, divided by ``row_seconds``.
    """

    round_seconds: float
    row_seconds: float
    roofline: float
    shares: dict[str, float]
    faster: float | None


def figures_of(measured: Measured, batch: int, loop_seconds: float | None) -> Figures:
    """The figures of a cell.

    Args:
        loop_seconds: of a round of the sequential loop with the same models, where it was measured.
    """
    seconds = sum(measured.seconds.values())
    least = sum(measured.operations[stage] / measured.peaks[stage] for stage in STAGES)
    return Figures(
        round_seconds=seconds,
        row_seconds=seconds / batch,
        roofline=least / seconds,
        shares={stage: measured.seconds[stage] / seconds for stage in STAGES},
        faster=None if loop_seconds is None else loop_seconds * batch / seconds,
    )


def write_outcome(out: Path, cell: Cell, outcome: Outcome) -> None:
    """Keep what became of a cell."""
    make_dir(out / "cells")
    write_atomic(_file(out, cell), (json.dumps(asdict(outcome), indent=1, allow_nan=False) + "\n").encode())


def read_outcome(out: Path, cell: Cell) -> Outcome | None:
    """What became of a cell; ``None`` where it has not been measured yet.

    Raises:
        UserError: its file is damaged.
    """
    path = _file(out, cell)
    if not path.is_file():
        return None
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        measured = plain.pop("measured")
        return Outcome(**plain, measured=None if measured is None else Measured(**measured))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); delete it, and run the same command again") from error


def _file(out: Path, cell: Cell) -> Path:
    return out / "cells" / f"{cell.name}.json"
