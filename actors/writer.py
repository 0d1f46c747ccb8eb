"""The writer actor: makes finished rows durable and commits shards, away from every GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray
import torch

from noisesmith.actors.pool import Loaded
from noisesmith.pipeline.noise import to_bytes
from noisesmith.pipeline.records import Failure, Provenance, Result
from noisesmith.pipeline.sinks import RunWriter


@ray.remote
class WriterActor:
    """Rebuilds what is written from disk when it starts, so it may be replaced at any time."""

    def __init__(self, run_dir: Path, extra_schema: pa.Schema, size: int, provenance: Provenance) -> None:
        self._arguments = (run_dir, extra_schema, size, provenance)

    def load(self) -> Loaded:
        self._writer = RunWriter(*self._arguments)
        return Loaded.here(None)

    def put(self, result: Result, image: bytes, image_initial: bytes | None, memory: np.ndarray | None) -> list[int]:
        """Stage one row with its images and, from its memory ``[1 + K, C, H, W]``, the noise; returns the shards this
        completed."""
        noise = None if memory is None else to_bytes(torch.tensor(memory[0]))
        return self._writer.put(replace(result, image=image, image_initial=image_initial, noise_fp16=noise))

    def fail(self, failure: Failure) -> list[int]:
        return self._writer.fail(failure)

    def finish(self) -> list[int]:
        return self._writer.finish()
