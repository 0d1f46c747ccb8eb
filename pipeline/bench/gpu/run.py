"""Measures cells in their order until the time is over, and keeps each as soon as it is measured."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import torch

from noisesmith.pipeline.bench.gpu.cells import Cell, Pair, cells_of
from noisesmith.pipeline.bench.gpu.measure import Conditions, OutOfTime, measure_cell
from noisesmith.pipeline.bench.gpu.models import PairModels
from noisesmith.pipeline.bench.gpu.peak import matmul_peak
from noisesmith.pipeline.bench.gpu.results import FAILED, MEASURED, OUT_OF_MEMORY, Outcome, read_outcome, write_outcome
from noisesmith.pipeline.bench.gpu.timeline import Meter, device_clock
from noisesmith.pipeline.bench.started import begin, check_started
from noisesmith.pipeline.bench.tables import counted, this_machine
from noisesmith.pipeline.errors import MemoryExhausted, UserError, reason
from noisesmith.pipeline.models.runtime import free_memory, memory_guard
from noisesmith.pipeline.preflight import find_models
from noisesmith.pipeline.search.loop import LoadedModels
from noisesmith.pipeline.storage.files import remove_tree

Note = Callable[[str], None]


@dataclass(frozen=True)
class Bench:
    """What is asked for.

    Attributes:
        minutes: after which no further round starts.
        device: ``cuda`` or ``cpu``.
        now: seconds of the clock that the minutes are counted by.
    """

    pairs: tuple[Pair, ...]
    out: Path
    minutes: float
    device: str
    now: Callable[[], float] = time.monotonic

    def cells(self) -> list[Cell]:
        return cells_of(self.pairs)


def check_bench(bench: Bench) -> None:
    """Refuse what cannot be measured, before any model is loaded.

    Raises:
        UserError: there is no GPU, a model cannot be found, or the folder holds measurements of something else.
    """
    if bench.device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "--device: torch finds no CUDA GPU on this machine; run the command on one that has a GPU, or try it with "
            "--device cpu and a CELLS file that names small models"
        )
    check_started(bench.out, _settings(bench))
    for pair in bench.pairs:
        if not pair.random_weights:
            find_models(pair.config(1, {}))


def run_bench(bench: Bench, note: Note) -> None:
    """Measure what is left, in order.

    Args:
        note: called with one line per cell.
    """
    ends = bench.now() + 60 * bench.minutes
    begin(bench.out, _settings(bench))
    left = [cell for cell in bench.cells() if read_outcome(bench.out, cell) is None]
    note(f"{counted(len(bench.cells()), 'cell')}: {len(left)} to measure, in at most {bench.minutes:g} minutes")
    session = _Session(bench, ends, note)
    try:
        for _, cells in groupby(left, key=lambda cell: cell.pair.name):
            session.measure_pair(list(cells))
            free_memory()
    finally:
        remove_tree(models_folder(bench.out))


def models_folder(out: Path) -> Path:
    """Where models with random weights are while cells are measured."""
    return out / "models"


def _settings(bench: Bench) -> dict[str, object]:
    """What decides the figures. Batch sizes may be added."""
    machine = this_machine()
    computer = machine.gpus[0] if bench.device == "cuda" else machine.cpu
    settings: dict[str, object] = {"device": computer, "torch": torch.__version__}
    for pair in bench.pairs:
        sections = {"generators": pair.generators, "scorers": pair.scorers, "random_weights": pair.random_weights}
        settings[pair.name] = json.dumps(sections)
    return settings


class _Session:
    """One call of the benchmark: its time, and how long pairs and cells have taken so far."""

    def __init__(self, bench: Bench, ends: float, note: Note) -> None:
        self._bench = bench
        self._ends = ends
        self._note = note
        self._models = PairModels(models_folder(bench.out), bench.device)
        self._longest_start = 0.0  # seconds of loading a pair's models and measuring its first cell
        clock = device_clock(bench.device)
        self._conditions = Conditions(bench.device, clock, _peaks(bench.device, clock), self._check_time)

    def measure_pair(self, cells: Sequence[Cell]) -> None:
        """Load a pair's models, and measure its cells."""
        if self._left() <= self._longest_start:
            self._note(f"{cells[0].pair.name}: no time left for its models")
            return
        began = self._bench.now()
        loaded: list[LoadedModels] = []
        with self._recorded(cells):
            loaded.append(self._models.load(cells[0].pair))
        if not loaded:
            return
        seconds, batch = 0.0, 1  # of the latest cell
        for cell in cells:
            if self._left() <= seconds * max(1.0, cell.batch / batch):
                self._note(f"{cell.name}: no time left")
                continue
            cell_began = self._bench.now()
            with self._recorded([cell]):
                self._measure(cell, loaded[0])
            seconds, batch = self._bench.now() - cell_began, cell.batch
            if cell is cells[0]:
                self._longest_start = max(self._longest_start, self._bench.now() - began)

    def _measure(self, cell: Cell, models: LoadedModels) -> None:
        config = self._models.config(cell.pair, cell.batch)
        measured = measure_cell(config, models, self._conditions, loop=cell.batch == 1)
        write_outcome(self._bench.out, cell, Outcome(MEASURED, measured=measured))
        seconds = sum(measured.seconds.values())
        self._note(f"{cell.name}: {seconds:.3g} s per round of {counted(cell.batch, 'row')}")

    @contextmanager
    def _recorded(self, cells: Sequence[Cell]) -> Iterator[None]:
        """Keep what a failure of the block means for cells, and go on after it."""
        try:
            with memory_guard():
                yield
            return
        except OutOfTime:
            self._note(f"{cells[0].name}: no time left")
            return
        except MemoryExhausted as error:
            outcome = Outcome(OUT_OF_MEMORY, reason(error))
        except (ArithmeticError, RuntimeError, UserError) as error:
            # A loader's own sentence may hide that memory was all that was missing.
            kind = OUT_OF_MEMORY if "out of memory" in str(error) else FAILED
            outcome = Outcome(kind, f"{type(error).__name__}: {reason(error)}")
        free_memory()
        for cell in cells:
            write_outcome(self._bench.out, cell, outcome)
            self._note(f"{cell.name}: {outcome.outcome} ({outcome.reason})")

    def _left(self) -> float:
        return self._ends - self._bench.now()

    def _check_time(self) -> None:
        if self._left() <= 0:
            raise OutOfTime


def _peaks(device: str, clock: Meter) -> Callable[[str], float]:
    """Operations per second of a matrix product by the name of a type, measured once each."""

    @lru_cache
    def peak(dtype: str) -> float:
        return matmul_peak(getattr(torch, dtype), device, clock)

    return peak
