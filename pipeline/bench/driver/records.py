"""What a simulation is asked for, and what is seen of it."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from noisesmith.pipeline.errors import UserError

MOST_GPUS = 8192  # 4,096 actors per side is the most that a config allows
ROWS_PER_PLACE = 3  # rows of a simulation by default, as a multiple of those in flight
QUEUED = 2  # batches per worker that the rows in flight are enough for


@dataclass(frozen=True)
class DriverOptions:
    """The numbers of one simulation.

    Attributes:
        gpus: half of them generate and half score; one alone does both in turn.
        rows: prompts to search; as many as a steady state needs when absent.
        call_seconds: mean time of a generate or a score call, of any number of rows.
        spread: calls take from (1 - spread) to (1 + spread) times ``call_seconds``, uniformly.
        batch_size: rows per full batch, on both sides.
        processes: that hold the simulated workers.
    """

    gpus: int
    rows: int | None = None
    call_seconds: float = 2.0
    spread: float = 0.3
    batch_size: int = 8
    processes: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing.

        Raises:
            UserError: names the option.
        """
        if not 1 <= self.gpus <= MOST_GPUS:
            raise UserError(f"--gpus: must be between 1 and {MOST_GPUS}, but it is {self.gpus}")
        if not (isfinite(self.call_seconds) and self.call_seconds > 0):
            raise UserError(f"--call-seconds: must be a number above 0, but it is {self.call_seconds:g}")
        if not 0 <= self.spread < 1:
            raise UserError(f"--spread: must be at least 0 and below 1, but it is {self.spread:g}")
        for option, number in (("--batch-size", self.batch_size), ("--processes", self.processes)):
            if number < 1:
                raise UserError(f"{option}: must be at least 1, but it is {number}")
        least = 2 * self._places
        if self.rows is not None and self.rows < least:
            raise UserError(
                f"--rows: {self.rows} rows are too few for a steady state of {self.gpus} GPUs; give at least {least}"
            )

    @property
    def shares_gpu(self) -> bool:
        """Whether one GPU does the work of both sides."""
        return self.gpus == 1

    @property
    def generators(self) -> int:
        return max(1, self.gpus // 2)

    @property
    def scorers(self) -> int:
        return max(1, self.gpus - self.gpus // 2)

    @property
    def corpus_rows(self) -> int:
        """Prompts to search."""
        return self.rows or ROWS_PER_PLACE * self._places

    @property
    def _places(self) -> int:
        """Rows with which every worker has a batch at work and one that waits."""
        return QUEUED * (self.generators + self.scorers) * self.batch_size


@dataclass(frozen=True)
class Work:
    """One call of a simulated worker: its GPU, its stage, when it began and for how many seconds, and its rows."""

    gpu: int
    stage: str
    began: float
    seconds: float
    rows: int


@dataclass(frozen=True)
class Sample:
    """The driver's process at one moment.

    Attributes:
        time: of the machine's monotonic clock, in seconds; the same clock as that of :class:`Work`.
        cpu_seconds: of all threads of the driver's process; ``daemon_seconds`` those of Ray's raylet and GCS.
        worker_seconds: CPU time of the processes with simulated workers.
        rss_bytes: memory of the driver's process.
        wakeups: how often the driver has looked for answers; ``answers`` is how many it has taken.
        images: scored so far; ``ended`` is the number of rows written; ``waiting`` of those not started.
        in_flight: rows started and not ended; ``queues`` has those that wait for a worker, by stage.
    """

    time: float
    cpu_seconds: float
    daemon_seconds: float
    worker_seconds: float
    rss_bytes: int
    wakeups: int
    answers: int
    images: int
    ended: int
    waiting: int
    in_flight: int
    queues: dict[str, int]


@dataclass(frozen=True)
class Simulated:
    """A finished simulation: when its first rows were admitted and its last one was written, and what was seen."""

    options: DriverOptions
    began: float
    ended: float
    samples: list[Sample]
    work: list[Work]
