"""Measured cells as Markdown (``gpu.md``) and JSON (``gpu.json``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from noisesmith.pipeline.bench.gpu.cells import Cell
from noisesmith.pipeline.bench.gpu.measure import LONG, SHORT, Measured
from noisesmith.pipeline.bench.gpu.results import Figures, Outcome, figures_of, read_outcome
from noisesmith.pipeline.bench.gpu.timeline import (
    CANDIDATES,
    DECODE,
    DENOISING,
    OTHER,
    RECORDS,
    SCORE,
    SCORER_GRADIENT,
    TEXT,
    VAE_GRADIENT,
)
from noisesmith.pipeline.bench.tables import NONE, Machine, dumped, line, this_machine, today
from noisesmith.pipeline.machine import versions
from noisesmith.pipeline.report.card import escape
from noisesmith.pipeline.storage.files import write_atomic

Outcomes = Sequence[tuple[Cell, Outcome | None]]  # by cell, in order; ``None`` where it is not measured yet

GIBIBYTE = 2**30
_HEADS = (
    "models", "batch", "s per round", "s per row", "loop, s", "faster", "of roofline", "denoising", "decode", "score",
    "gradient, scorer", "gradient, VAE", "candidates", "rest", "copies, ms", "text, ms", "GiB",
)  # fmt: skip


@dataclass(frozen=True)
class Line:
    """A measured cell and its figures."""

    cell: Cell
    measured: Measured
    figures: Figures


def write_gpu(cells: Sequence[Cell], out: Path, device: str) -> list[Path]:
    """Write ``gpu.md`` and ``gpu.json`` of the cells that are measured so far, and return both files.

    Raises:
        UserError: the file of a cell is damaged.
    """
    outcomes = [(cell, read_outcome(out, cell)) for cell in cells]
    lines = _lines(outcomes)
    machine = this_machine()
    contents = {
        "gpu.md": to_markdown(lines, outcomes, machine, device),
        "gpu.json": to_json(outcomes, lines, machine, device),
    }
    for name, content in contents.items():
        write_atomic(out / name, content.encode())
    return [out / name for name in contents]


def to_markdown(lines: Sequence[Line], outcomes: Outcomes, machine: Machine, device: str) -> str:
    """A table with a line per measured cell, the cells without a figure, the conditions, and what the columns mean."""
    parts = [line(_HEADS), line(["---", *["---:"] * (len(_HEADS) - 1)])]
    parts += [line(_cells_of(one)) for one in lines]
    parts.append("")
    for cell, outcome in outcomes:
        if outcome is None:
            parts.append(f"- `{cell.name}`: not measured")
        elif outcome.measured is None:
            parts.append(f"- `{cell.name}`: {outcome.outcome} ({escape(outcome.reason)})")
    return "\n".join([*parts, "", _conditions(lines, machine, device), "", _notes(), ""])


def to_json(outcomes: Outcomes, lines: Sequence[Line], machine: Machine, device: str) -> str:
    """Everything at full precision.

    ``cells`` has for each cell its ``models``, ``batch`` and ``outcome``, which is ``not measured`` where it has none
    yet, the fields of :class:`Measured` as ``measured`` and those of :class:`Figures` as ``figures``.
    """
    figures = {one.cell.name: asdict(one.figures) for one in lines}
    entries = []
    for cell, outcome in outcomes:
        entry: dict[str, object] = {"models": cell.pair.name, "batch": cell.batch, "outcome": "not measured"}
        if outcome is not None:
            entry |= asdict(outcome) | {"figures": figures.get(cell.name)}
        entries.append(entry)
    facts = {"device": device, "machine": asdict(machine), "date": today(), "versions": versions()}
    return dumped({"conditions": facts, "timed_steps": [SHORT, LONG], "cells": entries})


def _lines(outcomes: Outcomes) -> list[Line]:
    """The measured cells, each next to the sequential loop of its models."""
    measured = [(cell, outcome.measured) for cell, outcome in outcomes if outcome and outcome.measured]
    loops = {cell.pair.name: one.loop_seconds for cell, one in measured if one.loop_seconds is not None}
    return [Line(cell, one, figures_of(one, cell.batch, loops.get(cell.pair.name))) for cell, one in measured]


def _cells_of(one: Line) -> list[str]:
    measured, figures = one.measured, one.figures
    shares = figures.shares
    rest = shares[TEXT] + shares[RECORDS] + shares[OTHER]
    return [
        one.cell.pair.name,
        str(one.cell.batch),
        f"{figures.round_seconds:.3g}",
        f"{figures.row_seconds:.3g}",
        NONE if measured.loop_seconds is None else f"{measured.loop_seconds:.3g}",
        NONE if figures.faster is None else f"{figures.faster:.3g}×",
        f"{figures.roofline:.0%}",
        *(f"{shares[stage]:.1%}" for stage in (DENOISING, DECODE, SCORE, SCORER_GRADIENT, VAE_GRADIENT, CANDIDATES)),
        f"{rest:.1%}",
        f"{1000 * measured.transfer_seconds:.3g}",
        f"{1000 * measured.text_seconds:.3g}",
        NONE if measured.peak_bytes is None else f"{measured.peak_bytes / GIBIBYTE:.1f}",
    ]


def _conditions(lines: Sequence[Line], machine: Machine, device: str) -> str:
    peaks = {f"{peak / 1e12:.3g}" for one in lines for peak in one.measured.peaks.values()}
    steps = {str(one.measured.steps) for one in lines}
    parts = [
        ", ".join(machine.gpus[:1]) if device == "cuda" else f"{machine.cpu}, {machine.cores} cores, no GPU",
        f"T = {', '.join(sorted(steps))}" if steps else "",
        f"peak of a matrix product: {', '.join(sorted(peaks))} TFLOP/s" if peaks else "",
        today(),
        ", ".join(f"{name} {number}" for name, number in versions().items()),
    ]
    return escape("; ".join(filter(None, parts))) + "."


def _notes() -> str:
    return (
        "A round moves the noise of each row, denoises it in T steps, decodes and scores the image, and takes the "
        f"gradient of the score. Rounds of {SHORT} and of {LONG} steps were timed; the denoising is extrapolated to T "
        "on the line through both, all else is their mean. S per row: of a round, divided by the batch. Loop: seconds "
        "per round of the paper's loop with the same models, one image at a time, its gradient by autograd through the "
        "replayed sampler; faster: its seconds per row, divided by ours. Of roofline: the least time for the round's "
        "matrix products, convolutions and attention at the measured peak of a matrix product in the same type, "
        "divided by the time taken. The shares of the round from denoising to rest add up to all of it; candidates is "
        "drawing and choosing noises on the host, rest is bookkeeping, digests and kept text embeddings. Copies: z_T, "
        "z_0 and the gradient between host and GPU, timed alone; part of other columns. Text: encoding a prompt, which "
        "is done once per row, and is in no other column. GiB: the most that tensors held at once, weights included. "
        "Where weights are random, scores and images mean nothing; only the times count."
    )
