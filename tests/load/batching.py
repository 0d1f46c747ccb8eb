"""``python -m tests.load.batching``: what an image of the built-in models costs, alone and in a batch of 16.

This is what limits how many times faster than a sequential loop a run can be on a CPU: both sides make the same images
of the same models, the loop one at a time. The product's own search in one process makes rounds of 1 and of 16 rows.
``denoising`` is the sampler; ``scoring`` the decoder and both scorers, with gradient; ``rest`` all other work.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from noisesmith.pipeline.bench.loop.figures import Spread
from noisesmith.pipeline.config import load_config
from noisesmith.pipeline.load import load_models
from noisesmith.pipeline.prompts import open_corpus
from noisesmith.pipeline.search.loop import make_images
from noisesmith.pipeline.search.row import RowSearch
from noisesmith.pipeline.search.score import score

CONFIG = Path(__file__).parents[2] / "configs" / "embedded-complex.yaml"


class Clock:
    """Seconds spent in one function."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def times(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            began = time.perf_counter()
            result = function(*arguments)
            self.seconds += time.perf_counter() - began
            return result

        return timed


def measure(batch: int, threads: int, repeats: int) -> dict[str, list[float]]:
    """Milliseconds per image: median, lowest and highest of ``repeats`` rounds."""
    torch.set_num_threads(threads)
    config = load_config(CONFIG)
    models = load_models(config, "cpu")
    denoising, scoring = Clock(), Clock()
    generator: Any = models.generator
    rows = list(itertools.islice(open_corpus(config).rows(), batch))
    searches = [RowSearch[torch.Tensor](row, config) for row in rows]
    found: dict[str, list[float]] = {"denoising": [], "scoring": [], "rest": []}
    with (
        mock.patch.object(generator, "sample", denoising.times(generator.sample)),
        mock.patch("noisesmith.pipeline.search.loop.score", scoring.times(score)),
    ):
        make_images(searches, config, models)  # the first round pays for what is made once
        for _ in range(repeats):
            denoising.seconds = scoring.seconds = 0.0
            began = time.perf_counter()
            make_images(searches, config, models)
            whole = time.perf_counter() - began
            parts = (denoising.seconds, scoring.seconds, whole - denoising.seconds - scoring.seconds)
            for name, seconds in zip(found, parts, strict=True):
                found[name].append(1000 * seconds / batch)
    spreads = {name: Spread.of(values) for name, values in found.items()}
    return {name: [round(value, 2) for value in astuple(spread)] for name, spread in spreads.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="at most 10, the rounds of a search")
    options = parser.parse_args()
    for threads, batch in itertools.product((1, 2), (1, 16)):
        print(json.dumps({"threads": threads, "batch": batch, **measure(batch, threads, options.repeats)}), flush=True)


if __name__ == "__main__":
    main()
