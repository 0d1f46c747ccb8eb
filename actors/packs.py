"""Arrays of one batch, packed into one object of Ray's object store, and where each row's array lies in it.

Ray sends returned objects of up to 100 KiB through the caller's process. Packs are always larger, so they stay on the
node that made them until a worker needs them: the driver handles references and positions only.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from noisesmith.pipeline.lazily import torch

if TYPE_CHECKING:
    from torch import Tensor

# Ray's max_direct_call_object_size is 100 KiB; it counts the whole object, and cannot be set in a cluster one joins.
MIN_PACK_BYTES = 112 * 1024


class Reference(Protocol):
    """A ``ray.ObjectRef``, as far as the driver uses it."""

    def future(self) -> Future[Any]: ...


class Position(NamedTuple):
    """Where an array lies in a pack: its first element there, and its shape."""

    offset: int
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Pack:
    """The driver's view of a pack: its reference, and the number of rows whose arrays it holds."""

    reference: Reference
    rows: int


class Stored(NamedTuple):
    """The driver's view of one row's array or encoded picture."""

    pack: Pack
    position: Position


class Located(NamedTuple):
    """One row's array among the packs that a call carries: the index of its pack, and its position there."""

    pack: int
    position: Position


class Arguments:
    """The packs that a call carries, each one once."""

    def __init__(self) -> None:
        self._indices: dict[Pack, int] = {}

    def locate(self, stored: Stored) -> Located:
        """Add the pack of an array to the call, unless it is there."""
        index = self._indices.setdefault(stored.pack, len(self._indices))
        return Located(index, stored.position)

    @property
    def references(self) -> list[Reference]:
        """The references to pass, in the order of their indices."""
        return [pack.reference for pack in self._indices]


def encode(orders: object) -> bytes:
    """Pickle what a call carries besides its packs. Ray's own serialization costs the driver five times as much."""
    return pickle.dumps(orders, protocol=5)


def pack_tensors(tensors: Sequence[Tensor]) -> tuple[NDArray[np.float32], list[Position]]:
    """Copy float32 tensors of any shapes into one flat array, and say where each one lies."""
    size = sum(tensor.numel() for tensor in tensors)
    packed = np.zeros(max(size, MIN_PACK_BYTES // 4), np.float32)
    positions = []
    offset = 0
    for tensor in tensors:
        packed[offset : offset + tensor.numel()] = tensor.flatten().numpy()
        positions.append(Position(offset, tuple(tensor.shape)))
        offset += tensor.numel()
    return packed, positions


def unpack_tensor(packs: Sequence[NDArray[np.generic]], located: Located) -> Tensor:
    """A writable copy of one row's tensor; the packs themselves may be read-only memory of the object store."""
    offset, shape = located.position
    flat = packs[located.pack][offset : offset + prod(shape)]
    return torch.tensor(flat).reshape(shape)


def pack_files(files: Sequence[bytes]) -> tuple[NDArray[np.uint8], list[Position]]:
    """Copy the contents of files into one array, and say where each one lies."""
    size = sum(len(content) for content in files)
    packed = np.zeros(max(size, MIN_PACK_BYTES), np.uint8)
    positions = []
    offset = 0
    for content in files:
        packed[offset : offset + len(content)] = np.frombuffer(content, np.uint8)
        positions.append(Position(offset, (len(content),)))
        offset += len(content)
    return packed, positions


def unpack_file(packs: Sequence[NDArray[np.generic]], located: Located) -> bytes:
    """The content of one packed file."""
    offset, (length,) = located.position
    return packs[located.pack][offset : offset + length].tobytes()
