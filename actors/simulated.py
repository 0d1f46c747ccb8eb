"""Simulated workers: they answer as generators, scorers and the writer do, and only wait in between."""

from __future__ import annotations

import asyncio
import os
import pickle
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import log, prod
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from noisesmith.actors.generator import GenerateOrder, GenerateReport, GeneratorInfo
from noisesmith.actors.packs import MIN_PACK_BYTES, Position, pack_files
from noisesmith.actors.pool import MAX_QUEUED, Loaded
from noisesmith.actors.scorer import RenderOrder, RenderReport, ScoreOrder, ScoreReport, ScorerInfo
from noisesmith.actors.writer import WriteOrder
from noisesmith.pipeline.bench.driver import DriverOptions, Work
from noisesmith.pipeline.generators import LatentSpec
from noisesmith.pipeline.records import NoiseStats
from noisesmith.pipeline.search.combine import Opinion
from noisesmith.pipeline.search.tasks import ImageRecord
from noisesmith.pipeline.sinks import Prepared, Staged
from noisesmith.pipeline.sinks.layout import ShardLayout

SHAPE = (4, 64, 64)  # of Stable Diffusion 1.5
SPEC = LatentSpec(SHAPE, 512, 512, SHAPE)
PICTURE_BYTES = 400_000  # about the size of a PNG file of 512 × 512 pixels
NOISE = NoiseStats(0.0, 1.0, 1.0, 0.0)


class SimulatedGPU:
    """One GPU, which works on one call at a time, in their order of arrival.

    The time of a call begins when the GPU is free and the call is there, however late the process that holds this
    object wakes up: so a process that holds hundreds of them does not slow them down.
    """

    def __init__(self, options: DriverOptions, number: int) -> None:
        self.random = random.Random(f"{options.seed}/{number}")
        self._number = number
        self._seconds = options.call_seconds
        self._spread = options.spread
        self._free_at = 0.0
        self.work: list[Work] = []

    async def use(self, stage: str, rows: int) -> float:
        """Wait for a call's turn and its work; returns the seconds of the work."""
        seconds = self._seconds * self.random.uniform(1 - self._spread, 1 + self._spread)
        began = max(time.monotonic(), self._free_at)
        self._free_at = began + seconds
        self.work.append(Work(self._number, stage, began, seconds, rows))
        await asyncio.sleep(self._free_at - time.monotonic())
        return seconds


@ray.remote(num_cpus=0, max_restarts=0)
class SimulatedHost:
    """A process that holds many simulated GPUs and their workers.

    Args:
        numbers: of its GPUs.
    """

    def __init__(self, options: DriverOptions, numbers: list[int]) -> None:
        self._gpus = {number: SimulatedGPU(options, number) for number in numbers}
        self._picture = random.Random(0).randbytes(PICTURE_BYTES)

    async def pid(self) -> int:
        """The process's id."""
        return os.getpid()

    async def work(self) -> list[Work]:
        """All that its GPUs have done."""
        done: list[Work] = []
        for gpu in self._gpus.values():
            done += gpu.work
        return done

    async def load_generator(self, number: int) -> Loaded[GeneratorInfo]:
        """Take the place of ``GeneratorActor.load``."""
        return Loaded.here(GeneratorInfo("simulated", "0", SPEC))

    async def load_scorer(self, number: int) -> Loaded[ScorerInfo]:
        """Take the place of ``ScorerActor.load``."""
        return Loaded.here(ScorerInfo(("simulated",), ("0",)))

    @ray.method(num_returns=2)
    async def generate(
        self, number: int, encoded: bytes, *packs: NDArray[np.float32]
    ) -> tuple[GenerateReport, NDArray[np.float32]]:
        """Take the place of ``GeneratorActor.generate``: states and z_0 of a batch, in one pack."""
        orders: list[GenerateOrder] = pickle.loads(encoded)
        rows = len(orders)
        seconds = await self._gpus[number].use("generate", rows)
        records = [ImageRecord(0.5, 1, NOISE, "0" * 64, rows, float(order.task.steps), SHAPE) for order in orders]
        states, latents = _positions(rows, (1, *SHAPE)), _positions(rows, SHAPE, first=rows)
        return GenerateReport(seconds, records, states, latents), _array(2 * rows)

    @ray.method(num_returns=2)
    async def score(
        self, number: int, encoded: bytes, *packs: NDArray[np.float32]
    ) -> tuple[ScoreReport, NDArray[np.float32] | None]:
        """Take the place of ``ScorerActor.score``: a random score of each row, and gradients where one is asked for."""
        orders: list[ScoreOrder] = pickle.loads(encoded)
        rows = len(orders)
        gpu = self._gpus[number]
        seconds = await gpu.use("score", rows)
        with_gradients = any(order.task.gradient for order in orders)
        positions: list[Position | None] = [*_positions(rows, SHAPE)] if with_gradients else [None] * rows
        opinions = [Opinion((log(gpu.random.uniform(0.01, 1.0)),), position) for position in positions]
        return ScoreReport(seconds, opinions), _array(rows) if with_gradients else None

    @ray.method(num_returns=2)
    async def render(
        self, number: int, encoded: bytes, *packs: NDArray[np.float32]
    ) -> tuple[RenderReport, NDArray[np.uint8]]:
        """Take the place of ``ScorerActor.render``: files of the usual size, at once."""
        orders: list[RenderOrder] = pickle.loads(encoded)
        pack, positions = pack_files([self._picture] * sum(len(order.latents) for order in orders))
        remaining = iter(positions)
        pictures = [[next(remaining) for _ in order.latents] for order in orders]
        return RenderReport(0.0, pictures, [{} for _ in orders]), pack


@ray.remote(num_cpus=0, max_restarts=0)
class SimulatedWriter:
    """Takes rows and prepares shards as the writer does, but writes nothing. The driver's own commits are real."""

    def __init__(self, layout: ShardLayout) -> None:
        self._layout = layout

    def load(self) -> Loaded[None]:
        """Take the place of ``WriterActor.load``."""
        return Loaded.here(None)

    def put(self, encoded: bytes, *packs: NDArray[np.generic]) -> Staged:
        """Take the place of ``WriterActor.put``."""
        orders: list[WriteOrder]
        _, orders = pickle.loads(encoded)
        rows = tuple(order.result.row.index for order in orders)
        return Staged(self._layout.shard_of(rows[0]), rows, "simulated")

    def prepare(self, shard: int, rows: Mapping[int, str]) -> Prepared:
        """Take the place of ``WriterActor.prepare``: a shard without files."""
        return Prepared(shard, tuple(rows), "", ())


@dataclass(frozen=True)
class OfOneGPU:
    """A method of a host, for one of its GPUs."""

    host: Any
    name: str
    number: int

    def remote(self, *arguments: object) -> Any:
        return getattr(self.host, self.name).remote(self.number, *arguments)


class SimulatedWorker:
    """The driver's handle of one generator or scorer: a host, and the number of a GPU there."""

    def __init__(self, host: Any, number: int, load: str) -> None:
        self.load = OfOneGPU(host, load, number)
        self.generate = OfOneGPU(host, "generate", number)
        self.score = OfOneGPU(host, "score", number)
        self.render = OfOneGPU(host, "render", number)


class SimulatedWorkers:
    """Places the workers of a simulation on the GPUs of its hosts, each generator and scorer on one of its own.

    One GPU alone has a generator and a scorer, which take turns.
    """

    def __init__(self, options: DriverOptions, layout: ShardLayout) -> None:
        self._options = options
        self._layout = layout
        processes = min(options.processes, options.gpus)
        self._hosts = []
        for process in range(processes):
            numbers = list(range(process, options.gpus, processes))
            calls = 2 * MAX_QUEUED * len(numbers) + 2  # a worker's own, twice, and those about the process
            host: Any = SimulatedHost
            self._hosts.append(host.options(max_concurrency=calls).remote(options, numbers))
        self._generators = 0
        self._scorers = 0

    def pids(self) -> list[int]:
        """The processes that hold the workers."""
        pids: list[int] = ray.get([host.pid.remote() for host in self._hosts])
        return pids

    def work(self) -> list[Work]:
        """All that the workers have done so far."""
        done: list[Work] = []
        for part in ray.get([host.work.remote() for host in self._hosts]):
            done += part
        return done

    def generator(self) -> SimulatedWorker:
        number = self._generators % self._options.generators
        self._generators += 1
        return self._worker(number, "load_generator")

    def scorer(self, group: int) -> SimulatedWorker:
        number = self._scorers % self._options.scorers
        self._scorers += 1
        first = 0 if self._options.shares_gpu else self._options.generators
        return self._worker(first + number, "load_scorer")

    def writer(self) -> Any:
        writer: Any = SimulatedWriter
        return writer.remote(self._layout)

    def _worker(self, number: int, load: str) -> SimulatedWorker:
        return SimulatedWorker(self._hosts[number % len(self._hosts)], number, load)


def _positions(rows: int, shape: tuple[int, ...], first: int = 0) -> list[Position]:
    """Where the tensors of a batch lie in a pack, the first of them after ``first`` others of the same size."""
    return [Position((first + row) * prod(shape), shape) for row in range(rows)]


def _array(tensors: int) -> NDArray[np.float32]:
    """An array as large as a pack of so many tensors."""
    return np.zeros(max(tensors * prod(SHAPE), MIN_PACK_BYTES // 4), np.float32)
