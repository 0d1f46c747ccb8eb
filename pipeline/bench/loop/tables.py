"""A comparison with the sequential loop, written as Markdown (``loop.md``) and JSON (``loop.json``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from noisesmith.pipeline.bench.loop.design import EARLY, LONG, RUN, LoopDesign, Timed
from noisesmith.pipeline.bench.loop.figures import Judged, Line, Spread, Truth, compare_with, line_of, truth_of
from noisesmith.pipeline.bench.loop.measure import Measured, read_measured
from noisesmith.pipeline.bench.read import MODEL_COLUMNS
from noisesmith.pipeline.bench.tables import NONE, Conditions, caption, conditions, dumped, line, signed
from noisesmith.pipeline.report.summary import Estimate, Row, shown
from noisesmith.pipeline.sinks import read_rows
from noisesmith.pipeline.storage.files import write_atomic


def write_loop(design: LoopDesign) -> list[Path]:
    """Write ``loop.md`` and ``loop.json`` of what was measured, and return both files.

    Raises:
        UserError: a measurement or a run is missing or damaged.
    """
    timed = list(design.timed())
    measured = {one.label: _measured(design, one) for one in timed}
    (run,) = (one for one in timed if one.label == RUN)
    facts = conditions(design.runs, next(iter(read_rows(design.folder_of(run, 0), [*MODEL_COLUMNS]))))
    lines = {run.name: line_of(measured[RUN])}
    for one in timed:
        if one.is_loop and one.rounds == design.runs.rounds:
            lines[one.name] = compare_with(measured[RUN], measured[one.label])
    truth = _truth(design, timed, measured) if design.options.truth else None
    contents = {
        "loop.md": to_markdown(design, lines, truth, facts),
        "loop.json": to_json(design, lines, truth, facts),
    }
    paths = []
    for name, content in contents.items():
        write_atomic(design.out / name, content.encode())
        paths.append(design.out / name)
    return paths


def to_json(design: LoopDesign, lines: Mapping[str, Line], truth: Truth | None, facts: Conditions) -> str:
    """Everything, at full precision.

    ``conditions`` are those of the runs, ``options`` those of the comparison. ``equal_rounds`` maps each command to the
    fields of :class:`Line`, and ``equal_truth`` has those of :class:`Truth`. An estimate is ``{"mean", "low", "high"}``
    and a spread ``{"median", "low", "high"}``.
    """
    whole = {
        "conditions": asdict(facts),
        "options": asdict(design.options),
        "early_stop": _early(design),
        "equal_rounds": {name: asdict(one) for name, one in lines.items()},
        "equal_truth": None if truth is None else asdict(truth),
    }
    return dumped(whole)


def to_markdown(design: LoopDesign, lines: Mapping[str, Line], truth: Truth | None, facts: Conditions) -> str:
    """One table per comparison, then the conditions in one line, and what the columns mean."""
    heads = ["equal rounds", "rows", "whole command, s", "start and end, s", "rows/min", "faster", "faster as a whole"]
    parts = [line(heads), _rule(heads)]
    parts += [line([f"`{name}`" if one.faster is None else name, *_cells(one)]) for name, one in lines.items()]
    if truth is not None:
        parts += ["", *_truth_table(design, truth)]
    parts += ["", caption(facts), "", _notes(design)]
    if truth is not None:
        parts += ["", _truth_notes(design, truth)]
    return "\n".join([*parts, ""])


def _cells(one: Line) -> list[str]:
    return [
        str(one.rows),
        spread(one.wall_seconds),
        spread(one.outside),
        spread(one.rows_per_minute),
        times(one.faster),
        times(one.faster_whole),
    ]


def _truth_table(design: LoopDesign, truth: Truth) -> list[str]:
    heads = ["to equal judged truth", "images per row", "rows/min", "faster", "faster as a whole"]
    for judge in truth.judges:
        heads += [f"judge {judge}", f"Δ {judge}"]
    loop = list(design.timed())[-1].name
    lines = [line(heads), _rule(heads)]
    for name, one in (("`noisesmith run`", truth.run), (loop, truth.loop), ("loop, early stop", truth.loop_early)):
        cells = [name, f"{one.images_per_row:.1f}", spread(one.rows_per_minute), times(one.faster)]
        cells.append(times(one.faster_whole))
        for judged in truth.judges.values():
            cells += _verdict(judged, at_full=one is truth.loop)
        lines.append(line(cells))
    return lines


def _verdict(judged: Judged, *, at_full: bool) -> list[str]:
    """A judge's mean, and the run's difference from it; a loop that stops early finds what the run finds."""
    if at_full:
        return [_estimate(judged.loop), signed(judged.difference)]
    return [_estimate(judged.run), NONE]


def _notes(design: LoopDesign) -> str:
    options = design.options
    return (
        f"{options.repeats} repeats of all commands in turns: median (lowest–highest). Rows/min: from when the models "
        "are loaded to the last row. Faster: how many times as many rows/min `noisesmith run` makes, paired by repeat. "
        "Faster as a whole: the same for whole commands that make as many rows as the run did; the loop's time is that "
        "of its start and end, and its seconds per row for each of them. The loop searches "
        f"{options.loop_prompts} of the same prompts per process and repeat, others in each, with the same weights, "
        "scorers and draws. It makes one image at a time, and its gradient goes by autograd through scorers, VAE and "
        f"the replayed sampler. Equal rounds: {design.runs.rounds} on both sides, no early stop."
    )


def _truth_notes(design: LoopDesign, truth: Truth) -> str:
    early = ", ".join(f"{name} {value:g}" for name, value in _early(design).items())
    own = "; ".join(f"judge {name} {_estimate(judged.loop_rows)}" for name, judged in truth.judges.items())
    return (
        f"To equal judged truth: the run stops a row early ({early}; at most {design.runs.rounds} rounds), the loop "
        f"takes {design.options.loop_rounds} rounds. Judges: kept images of {truth.prompts} prompts, with 95 % "
        "bootstrap intervals; Δ: run − loop, paired by prompt. The loop's verdicts are of its search over all of these "
        "prompts, made by `noisesmith run` without early stop. "
        f"The loop itself made {truth.loop_rows} rows ({own}), of which {truth.same} have the same kept score there. "
        "Loop, early stop: from its seconds per image and the run's images per row, since the same rule ends the same "
        "search."
    )


def _early(design: LoopDesign) -> dict[str, float]:
    optimizer = design.config(EARLY).optimizer
    found = {"target_score": optimizer.target_score, "patience": optimizer.patience}
    return {name: float(value) for name, value in found.items() if value is not None}


def _truth(design: LoopDesign, timed: list[Timed], measured: Mapping[str, list[Measured]]) -> Truth:
    (early,) = (one for one in timed if one.label == EARLY)
    loop = timed[-1]
    judges = [judge.name for judge in design.config(RUN).judges]
    columns = ["id", "score", *(f"judge_{judge}" for judge in judges)]

    def rows(folder: Path) -> dict[str, Row]:
        return {row["id"]: row for row in read_rows(folder, columns)}

    run_rows = rows(design.folder_of(early, 0))
    loop_rows = rows(design.config(LONG).run_dir)
    return truth_of(measured[EARLY], measured[loop.label], run_rows, loop_rows, judges)


def _measured(design: LoopDesign, timed: Timed) -> list[Measured]:
    return [read_measured(design.measurement_of(timed, repeat)) for repeat in range(design.options.repeats)]


def spread(found: Spread) -> str:
    """``81.2 (79.0–84.5)``: three digits of each."""
    return f"{_digits(found.median)} ({_digits(found.low)}–{_digits(found.high)})"


def times(found: Spread | None) -> str:
    """A ratio with its spread."""
    if found is None:
        return NONE
    return f"{_digits(found.median)}× ({_digits(found.low)}–{_digits(found.high)})"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _estimate(found: Estimate | None) -> str:
    return NONE if found is None else shown(found)


def _rule(heads: list[str]) -> str:
    return line(["---", *["---:"] * (len(heads) - 1)])
