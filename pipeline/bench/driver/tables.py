"""Simulations written as Markdown (``driver.md``) and JSON (``driver.json``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median

from noisesmith.pipeline.bench.driver.figures import Figures, figures_of
from noisesmith.pipeline.bench.driver.records import DriverOptions, Simulated
from noisesmith.pipeline.bench.tables import Machine, dumped, line, this_machine, today
from noisesmith.pipeline.machine import versions
from noisesmith.pipeline.report.card import escape
from noisesmith.pipeline.storage.files import make_dir, write_atomic

Column = tuple[str, Callable[[Figures], float], int]  # its head, its figure, and the number of decimal places
COLUMNS: tuple[Column, ...] = (
    ("generators busy", lambda figures: figures.generators_busy, 3),
    ("scorers busy", lambda figures: figures.scorers_busy, 3),
    ("of ideal", lambda figures: figures.of_ideal, 3),
    ("whole run", lambda figures: figures.whole_run, 3),
    ("rows per call", lambda figures: figures.mean_batch, 2),
    ("calls per s", lambda figures: figures.calls / figures.seconds, 1),
    ("driver ms per call", lambda figures: figures.driver_ms_per_call, 2),
    ("driver cores", lambda figures: figures.driver_cores, 3),
    ("daemons cores", lambda figures: figures.daemons_cores, 3),
    ("workers cores", lambda figures: figures.workers_cores, 3),
    ("wake-ups per row", lambda figures: figures.wakeups_per_row, 2),
    ("answers per row", lambda figures: figures.answers_per_row, 2),
    ("MiB first", lambda figures: figures.rss_first, 0),
    ("MiB last", lambda figures: figures.rss_last, 0),
)


def write_driver(simulations: Sequence[Simulated], out: Path) -> list[Path]:
    """Write ``driver.md`` and ``driver.json`` of simulations to a folder, and return both files.

    Raises:
        UserError: one had no steady state.
    """
    figures = [figures_of(simulated) for simulated in simulations]
    machine = this_machine()
    make_dir(out)
    contents = {
        "driver.md": to_markdown(simulations, figures, machine),
        "driver.json": to_json(simulations, figures, machine),
    }
    for name, content in contents.items():
        write_atomic(out / name, content.encode())
    return [out / name for name in contents]


def to_markdown(simulations: Sequence[Simulated], figures: Sequence[Figures], machine: Machine) -> str:
    """A table with a line per number of GPUs, its conditions in one line, and what its columns mean."""
    by_options: dict[DriverOptions, list[Figures]] = {}
    for simulated, found in zip(simulations, figures, strict=True):
        by_options.setdefault(replace(simulated.options, seed=0), []).append(found)
    heads = ["GPUs", "s per call", "batch", "rows", *(head for head, _, _ in COLUMNS), "per GPU"]
    lines = [line(heads), line(["---:"] * len(heads))]
    smallest = median(found.images_per_gpu for found in next(iter(by_options.values())))
    for options, of_size in by_options.items():
        cells = [str(options.gpus), f"{options.call_seconds:g}", str(options.batch_size), str(options.corpus_rows)]
        cells += [_cell([value(found) for found in of_size], places) for _, value, places in COLUMNS]
        cells.append(_cell([found.images_per_gpu / smallest for found in of_size], 3))
        lines.append(line(cells))
    return "\n".join([*lines, "", _conditions(next(iter(by_options)), by_options, machine), "", _notes(), ""])


def to_json(simulations: Sequence[Simulated], figures: Sequence[Figures], machine: Machine) -> str:
    """Everything but the single calls, at full precision.

    ``simulations`` has the fields of :class:`DriverOptions` as ``options``, those of :class:`Figures` as ``figures``
    and the ``samples``, a list of the fields of :class:`Sample`.
    """
    entries = []
    for simulated, found in zip(simulations, figures, strict=True):
        samples = [asdict(sample) for sample in simulated.samples]
        entries.append({"options": asdict(simulated.options), "figures": asdict(found), "samples": samples})
    facts = {"machine": asdict(machine), "date": today(), "versions": versions("ray")}
    return dumped({"conditions": facts, "simulations": entries})


def _cell(values: Sequence[float], places: int) -> str:
    """The median, and the least and the most of several repeats."""
    text = f"{median(values):.{places}f}"
    return text if len(values) == 1 else f"{text} ({min(values):.{places}f} to {max(values):.{places}f})"


def _conditions(options: DriverOptions, by_options: dict[DriverOptions, list[Figures]], machine: Machine) -> str:
    repeats = {len(of_size) for of_size in by_options.values()}
    parts = [
        f"calls ± {options.spread:.0%}, {options.processes} processes with simulated workers",
        f"simulations per line: {', '.join(map(str, sorted(repeats)))}",
        f"{machine.cpu}, {machine.cores} cores",
        today(),
        ", ".join(f"{name} {number}" for name, number in versions("ray").items()),
    ]
    return escape("; ".join(parts)) + "."


def _notes() -> str:
    return (
        "Half of the GPUs generate and half score; one alone does both in turn. All figures but `whole run` are of the "
        "steady state: from when as many images have been scored as there are rows in flight, until no row is left to "
        "begin. Busy: share of their time that GPUs worked. Of ideal: that of the side which had more to do per GPU, "
        "where a call with half of its rows counts half; at 1 no schedule could be faster. Whole run: the least time "
        "in which that side could do all its work, divided by the time of the run. Cores: CPU seconds per second, of "
        "the driver's process, of Ray's raylet and GCS, and of the processes with simulated workers. Wake-ups and "
        "answers: how often the driver looked for answers of workers, and how many it took. MiB: memory of the "
        "driver's process, mean of the first and of the last quarter. Per GPU: images per second and GPU, against the "
        "first line."
    )
