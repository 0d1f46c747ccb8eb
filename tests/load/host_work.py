"""``python -m tests.load.host_work``: CPU time of a generator's and a scorer's calls outside of the models, per row.

The product's own functions make a call of 8 rows, with models that answer at once. Work while the call holds the
models keeps the device waiting; all other work runs while another call holds them. Decoding, grey levels, scores and
gradients run on the device, so they count for neither. Thread CPU time on one core, so other processes change little.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from noisesmith.actors.packs import pack_files, pack_tensors
from noisesmith.pipeline.config import GeneratorConfig, NoiseDiffusionConfig
from noisesmith.pipeline.generators import LatentSpec, find_generator, load_generator
from noisesmith.pipeline.images import extreme_levels, to_uint8
from noisesmith.pipeline.models.runtime import ExclusiveUse
from noisesmith.pipeline.noise import NoiseKey
from noisesmith.pipeline.scorers.panel import Group, Member
from noisesmith.pipeline.search.generate import generate
from noisesmith.pipeline.search.render import render
from noisesmith.pipeline.search.score import score
from noisesmith.pipeline.search.tasks import GenerateTask, ScoreTask, Slope, Start

MODELS = {
    "SD 1.5, 512 px": LatentSpec((4, 64, 64), 512, 512, (4, 64, 64)),
    "SDXL, 1024 px": LatentSpec((4, 128, 128), 1024, 1024, (4, 128, 128)),
    "SD 3.5, 1024 px": LatentSpec((16, 128, 128), 1024, 1024, (16, 128, 128)),
}
ROWS = 8
LIMIT_MS = 2.0


class Device:
    """Models that answer at once, and the CPU time that stands for work on a device."""

    def __init__(self, spec: LatentSpec) -> None:
        self.seconds = 0.0
        coarse = torch.rand(1, 3, spec.height // 16, spec.width // 16, generator=torch.Generator().manual_seed(0))
        smooth = torch.nn.functional.interpolate(coarse, (spec.height, spec.width), mode="bicubic")
        grain = torch.randn(smooth.shape, generator=torch.Generator().manual_seed(1))
        self._image = (smooth + 0.01 * grain).clamp(0, 1)
        self._latents = torch.empty(0)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        began = time.thread_time()
        yield
        self.seconds += time.thread_time() - began

    def runs(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose time counts as the device's."""

        def counted(*arguments: Any) -> Any:
            with self.at_work():
                return function(*arguments)

        return counted

    def sample(self, prompts: list[str], noise: Tensor, steps: int) -> Tensor:
        with self.at_work():
            return noise.clone()

    def decode(self, latents: Tensor) -> Tensor:
        with self.at_work():
            self._latents = latents
            return self._image.expand(len(latents), -1, -1, -1)

    def log_scores(self, prompts: list[str], images: Tensor) -> Tensor:
        with self.at_work():
            return self._latents.flatten(1)[:, 0] - 10


class Meter(ExclusiveUse):
    """Notes the CPU time of its thread."""

    def __init__(self) -> None:
        super().__init__(threading.Lock())
        self.cpu = 0.0

    def __enter__(self) -> None:
        super().__enter__()
        self._cpu_began = time.thread_time()

    def __exit__(self, *error: Any) -> None:
        self.cpu += time.thread_time() - self._cpu_began
        super().__exit__(*error)


class Bench:
    """The calls of one model."""

    def __init__(self, generator: Any, spec: LatentSpec) -> None:
        self.device = Device(spec)
        self._generator = generator
        self._generator.spec = spec
        self._generator.sample = self.device.sample
        self._noise = torch.stack([NoiseKey(0, str(row), 0).draw(0, spec.shape) for row in range(ROWS)])
        scorer: Any = self.device
        self._group = Group((Member(scorer, overshoots=True),))

    def generate(self, round_: int, use: ExclusiveUse) -> None:
        tasks = []
        starts = []
        for row, noise in enumerate(self._noise):
            tasks.append(GenerateTask(_prompt(row), (), NoiseKey(0, str(row), round_), 20, score=0.3))
            starts.append(Start(noise[None], (Slope(NoiseKey(1, str(row), round_).draw(0, noise.shape), 1.0),)))
        made = generate(NoiseDiffusionConfig(), self._generator, tasks, starts, use)
        pack_tensors([*made.states, *made.latents])

    def score(self, round_: int, use: ExclusiveUse) -> None:
        tasks = [ScoreTask(_prompt(row), gradient=True) for row in range(ROWS)]
        decoder: Any = self.device.decode
        with mock.patch("noisesmith.pipeline.search.score.extreme_levels", self.device.runs(extreme_levels)):
            opinions = score(decoder, self._group, tasks, self._noise, use)
        pack_tensors([opinion.log_gradient for opinion in opinions if opinion.log_gradient is not None])

    def render(self, round_: int, use: ExclusiveUse) -> None:
        decoder: Any = self.device.decode
        latents = [(noise, noise + 1) for noise in self._noise]
        with mock.patch("noisesmith.pipeline.search.render.to_uint8", self.device.runs(to_uint8)):
            made = render(decoder, {}, [_prompt(row) for row in range(ROWS)], latents, use)
        pack_files([picture for row in made for picture in row.pictures])


def _prompt(row: int) -> str:
    return f"a red cat above a blue car number {row}"


def measure(bench: Bench, call: Callable[[int, ExclusiveUse], None], repeats: int) -> dict[str, float]:
    """Median ms of one core per row: while it holds the models, and in all of the call."""
    holding = []
    in_all = []
    for repeat in range(1 + repeats):
        use = Meter()
        bench.device.seconds = 0.0
        began = time.thread_time()
        call(repeat, use)
        device = bench.device.seconds
        in_all.append(1000 * (time.thread_time() - began - device) / ROWS)
        holding.append(1000 * (use.cpu - device) / ROWS)
    # The first call pays for what is made once.
    return {"while_holding_ms": statistics.median(holding[1:]), "in_all_ms": statistics.median(in_all[1:])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator = load_generator(find_generator(GeneratorConfig()), "cpu")
    for model, spec in MODELS.items():
        bench = Bench(generator, spec)
        for call in (bench.generate, bench.score, bench.render):
            found = {name: round(value, 3) for name, value in measure(bench, call, options.repeats).items()}
            line = {"model": model, "call": call.__name__, **found, "limit_ms": LIMIT_MS}
            print(json.dumps(line | {"within": found["while_holding_ms"] <= LIMIT_MS}), flush=True)


if __name__ == "__main__":
    main()
