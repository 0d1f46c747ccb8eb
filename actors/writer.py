"""The writer worker: makes finished rows durable and commits shards, away from every GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray

from noisesmith.actors.packs import Located, unpack_file, unpack_tensor
from noisesmith.actors.pool import Loaded
from noisesmith.pipeline.noise import to_bytes
from noisesmith.pipeline.records import Failure, Provenance, Result
from noisesmith.pipeline.sinks import RunWriter


@ray.remote
class WriterActor:
    """Rebuilds its state from disk when it starts, so it may be replaced at any time."""

    def __init__(
        self, run_dir: Path, extra_schema: pa.Schema, size: int, provenance: Provenance, first_row: int
    ) -> None:
        self._arguments = (run_dir, extra_schema, size, provenance, first_row)

    def load(self) -> Loaded[None]:
        """Read what is written already."""
        self._writer = RunWriter(*self._arguments)
        return Loaded.here(None)

    def put(
        self,
        result: Result,
        image: Located,
        image_initial: Located | None,
        listed: dict[int, Located],
        state: Located | None,
        *packs: NDArray[np.generic],
    ) -> list[int]:
        """Stage one row with its PNG files and, from its optimizer state ``[1 + K, C, H, W]``, the noise.

        Args:
            listed: the images of the column ``round_images``, by number.

        Returns:
            the shards that this row completed.
        """
        kept = unpack_file(packs, image)
        initial = None if image_initial is None else unpack_file(packs, image_initial)
        pictures = {number: unpack_file(packs, located) for number, located in listed.items()}
        noise = None if state is None else to_bytes(unpack_tensor(packs, state)[0])
        return self._writer.put(result.completed(kept, initial, noise, pictures))

    def fail(self, failure: Failure) -> list[int]:
        """Write a dead letter; returns the shards that it completed."""
        return self._writer.fail(failure)

    def finish(self) -> list[int]:
        """Commit what is left to commit; returns the shards that this completed."""
        return self._writer.finish()
