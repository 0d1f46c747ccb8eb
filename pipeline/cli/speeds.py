"""What ``noisesmith plan --calibrate`` adds to a plan: seconds per call, the best split, rows per hour, cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from noisesmith.pipeline.cli.common import console, interruptible
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.errors import UserError, printable

if TYPE_CHECKING:
    from noisesmith.pipeline.preflight import FoundModels
    from noisesmith.pipeline.prompts import Corpus
    from noisesmith.pipeline.speed.figures import Forecast
    from noisesmith.pipeline.speed.ladder import SideTiming
    from noisesmith.pipeline.speed.record import Speeds


def check_options(calibrate: bool, calibration: Path | None, price: float | None, quick: bool) -> None:
    """Refuse options that do not go together.

    Raises:
        UserError: a price without measured speeds, or one that is none; or a measurement that is to be quick.
    """
    from noisesmith.pipeline.speed.figures import check_price

    check_price(price)
    if calibrate and quick:
        raise UserError("--quick: --calibrate loads the models and takes minutes; leave out one of the two")
    if price is not None and not calibrate and calibration is None:
        raise UserError(
            "--price: the cost follows from measured speeds; add --calibrate, or --calibration FILE of an earlier one"
        )


def read_earlier(file: Path, settings: RunConfig, models: FoundModels) -> Speeds:
    """The speeds of an earlier calibration.

    Raises:
        UserError: there is none, or it was measured for something else.
    """
    from noisesmith.pipeline.speed.record import check_speeds, read_speeds

    speeds = read_speeds(file)
    check_speeds(speeds, str(file), settings, models)
    return speeds


def measure(settings: RunConfig, models: FoundModels, corpus: Corpus, file: Path) -> Speeds:
    """Measure the speeds of a config, and store them.

    Raises:
        UserError: a model does not fit into memory, or the file cannot be written.
        RunError: an image is unusable.
    """
    from noisesmith.pipeline.speed.measure import calibrate
    from noisesmith.pipeline.speed.record import write_speeds

    console.print("")
    with interruptible("nothing was stored; run the same command again"):
        speeds = calibrate(settings, models, corpus, console.print)
        write_speeds(file, speeds)
    console.print(f"written: {file}")
    return speeds


def print_speeds(settings: RunConfig, speeds: Speeds, price: float | None) -> None:
    """Print a table per side, and what follows from them."""
    for name, side in speeds.sides.items():
        console.print("")
        console.print(_table(f"{name}, {speeds.conditions[f'device of {name}']}", side))
        console.print(f"not larger: {side.stopped}")
    console.print("")
    print_lines(_size_lines(settings, speeds) | _forecast_lines(settings, speeds, price))


def print_lines(lines: Mapping[str, str], width: int = 0) -> None:
    """Print name → text, one per line, with the texts in one column.

    Args:
        width: characters of the longest name among all that share the column; of these lines by default.
    """
    width = max(width, *map(len, lines)) + 2
    for name, text in lines.items():
        console.print(f"{name:<{width}}{printable(text)}")


def _table(title: str, side: SideTiming) -> Table:
    """The sizes that were timed; the best one is marked."""
    from noisesmith.pipeline.speed.trials import ROUND

    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    kinds = list(side.timings[0].seconds)
    usual = ROUND if ROUND in kinds else kinds[0]  # the kind of call that a row takes most often
    for column in ("batch size", *(f"s per {kind} call" for kind in kinds), f"{usual}: rows/s", "peak GB"):
        table.add_column(column, justify="right")
    for timing in side.timings:
        marked = f"{timing.batch_size} *" if timing.batch_size == side.best else f"{timing.batch_size}  "
        seconds = [f"{timing.seconds[kind]:.3g}" for kind in kinds]
        peak = "–" if timing.peak_bytes is None else f"{timing.peak_bytes / 1e9:.3g}"
        table.add_row(marked, *seconds, f"{timing.batch_size / timing.seconds[usual]:.3g}", peak)
    return table


def _size_lines(settings: RunConfig, speeds: Speeds) -> dict[str, str]:
    """Which batch sizes these figures are for, as name → text."""
    from noisesmith.pipeline.speed.placement import open_sizes, sides_of

    chosen = []
    still_open = open_sizes(settings)
    for name, side in sides_of(settings).items():
        best = speeds.sides[name].best
        if name in still_open:
            others = "" if side.batch_size == best else f" with placement: auto, else {side.batch_size}"
            chosen.append(f"{name} {best}{others}")
        elif side.batch_size == best:
            chosen.append(f"{name} {best}, as the config sets it")
        else:
            chosen.append(f"{name} {side.batch_size}, as the config sets it ({best} is best)")
    return {"batch sizes": "; ".join(chosen)}


def _forecast_lines(settings: RunConfig, speeds: Speeds, price: float | None) -> dict[str, str]:
    """The best split and what it makes, as name → text."""
    from noisesmith.pipeline.speed.figures import forecast
    from noisesmith.pipeline.speed.placement import describe, sides_of, split, timed_loads, with_batch_sizes

    settings = with_batch_sizes(settings, speeds)
    loads = timed_loads(settings, speeds)
    images, _ = settings.most_per_row()
    counts = split(settings, loads)
    found = forecast(loads, list(counts.values()), images)
    written = {name: side.count for name, side in sides_of(settings).items()}
    as_written = forecast(loads, list(written.values()), images)
    unit = "GPU" if any(load.gpus for load in loads.values()) else "core"
    lines = {"best split": f"{describe(counts)}, on {found.gpus:g} {unit}s; {_busy(found)}"}
    if counts != written:
        lines["as the config"] = f"{describe(written)}: {_number(as_written.rows_per_hour)} rows per hour"
    rate = _number(found.rows_per_hour)
    lines["rows"] = f"{rate} per hour, if all take {images} images; more where searches end early"
    lines["images"] = f"{_number(found.images_per_hour)} per hour"
    if price is not None:
        cost = found.cost_per_1000_rows(price)
        lines["cost"] = f"{_number(cost)} per 1,000 rows, at {price:g} per {unit} and hour"
    return lines


def _busy(found: Forecast) -> str:
    return ", ".join(f"{name} {share:.0%} busy" for name, share in found.busy.items())


def _number(value: float) -> str:
    """Three digits, and no exponent."""
    digits = max(0, 2 - math.floor(math.log10(value)))
    return f"{value:,.{digits}f}"
