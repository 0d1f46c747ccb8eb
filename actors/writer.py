"""The writer worker: makes finished rows durable and prepares the files of shards, away from every GPU."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray

from noisesmith.actors.packs import Located, unpack_file, unpack_tensor
from noisesmith.actors.pool import Loaded
from noisesmith.pipeline.noise import to_bytes
from noisesmith.pipeline.records import Provenance, Result
from noisesmith.pipeline.sinks import Prepared, ShardWriter, Staged
from noisesmith.pipeline.sinks.header import Header


@dataclass
class WriteOrder:
    """One row to write: its result, and where its PNG files and its optimizer state ``[1 + K, C, H, W]`` lie.

    ``listed`` are the images of the column ``round_images``, by number. Without ``state`` the row stores no noise.
    """

    result: Result
    image: Located
    image_initial: Located | None = None
    listed: dict[int, Located] = field(default_factory=dict)
    state: Located | None = None

    def completed(self, packs: tuple[NDArray[np.generic], ...]) -> Result:
        """The result with its files and its noise."""
        kept = unpack_file(packs, self.image)
        initial = None if self.image_initial is None else unpack_file(packs, self.image_initial)
        pictures = {number: unpack_file(packs, located) for number, located in self.listed.items()}
        noise = None if self.state is None else to_bytes(unpack_tensor(packs, self.state)[0])
        return self.result.completed(kept, initial, noise, pictures)


@ray.remote
class WriterActor:
    """Keeps nothing between two calls, so it may be replaced at any time. Its calls run in threads of their own."""

    def __init__(self, run_dir: Path, header: Header, extra_schema: pa.Schema) -> None:
        self._writer = ShardWriter(run_dir, header, extra_schema)

    def load(self) -> Loaded[None]:
        """Import what the first shard will need."""
        self._writer.load()
        return Loaded.here(None)

    def put(self, encoded: bytes, *packs: NDArray[np.generic]) -> Staged:
        """Stage the rows of an encoded pair of provenance and list of :class:`WriteOrder`, all of one shard."""
        provenance: Provenance
        orders: list[WriteOrder]
        provenance, orders = pickle.loads(encoded)
        return self._writer.stage([order.completed(packs) for order in orders], provenance)

    def prepare(self, shard: int, rows: Mapping[int, str]) -> Prepared:
        """Write the files of a complete shard.

        Args:
            rows: the index of each of its staged rows, and the name of its file.
        """
        return self._writer.prepare(shard, rows)
