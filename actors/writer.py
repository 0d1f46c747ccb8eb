"""The writer actor: makes finished rows durable and commits shards, away from every GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import ray

from pipeline.config import RunConfig
from pipeline.records import Failure, Provenance, Result
from pipeline.sinks import RunWriter


@ray.remote
class WriterActor:
    """Rebuilds what is written from disk when it starts, so it may be replaced at any time."""

    def __init__(
        self, run_dir: Path, config: RunConfig, extra_schema: pa.Schema, size: int, provenance: Provenance
    ) -> None:
        self._arguments = (run_dir, config, extra_schema, size, provenance)

    def load(self) -> None:
        self._writer = RunWriter(*self._arguments)

    def put(self, result: Result, image: bytes, image_initial: bytes | None) -> list[int]:
        """Stage one row with its images; returns the shards this completed."""
        return self._writer.put(replace(result, image=image, image_initial=image_initial))

    def fail(self, failure: Failure) -> list[int]:
        return self._writer.fail(failure)

    def finish(self) -> None:
        self._writer.finish()
