"""Text conditioning that is computed once per prompt, however many images are made for it."""

from __future__ import annotations

import inspect
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

MOST_BYTES = 512 * 2**20  # of main memory: 4,000 prompts of SD 1.5, 1,500 of SDXL, 190 of SD 3.5 with its T5

Encoded: TypeAlias = tuple[Tensor | None, ...]


class RememberedText:
    """A pipeline's ``encode_prompt`` that remembers what it has returned for each prompt, last used last.

    Each prompt is encoded alone, so that its embeddings depend on no other row of a batch. They are kept in main
    memory, at most ``most_bytes`` of them. Only for pipelines that give every prompt embeddings of one length.

    Args:
        encode: the pipeline's own method.

    Attributes:
        held: bytes that are kept.
    """

    def __init__(self, encode: Callable[..., Encoded], most_bytes: int = MOST_BYTES) -> None:
        self._encode = encode
        self.__signature__ = inspect.signature(encode)  # what inspect.signature says of this object too
        self._most_bytes = most_bytes
        self._kept: OrderedDict[str, Encoded] = OrderedDict()
        self._uses: Counter[int] = Counter()  # of each tensor, by its address
        self.held = 0

    def __call__(self, *args: Any, **options: Any) -> Encoded:
        """The embeddings of a batch of prompts, as the pipeline's own method returns them."""
        asked = self.__signature__.bind(*args, **options)
        given = asked.arguments
        prompts, device = given.get("prompt"), given.get("device")
        has_embeddings = any(isinstance(value, Tensor) for value in given.values())
        if not isinstance(prompts, list) or device is None or has_embeddings:
            return self._encode(*args, **options)
        rows = [self._row(asked, row) for row in range(len(prompts))]
        return tuple(_join(values, device) for values in zip(*rows, strict=True))

    def forget(self) -> None:
        """Drop everything that is kept."""
        self._kept.clear()
        self._uses.clear()
        self.held = 0

    def _row(self, asked: inspect.BoundArguments, row: int) -> Encoded:
        alone = inspect.BoundArguments(self.__signature__, OrderedDict(asked.arguments))
        for name, value in asked.arguments.items():
            if name.startswith(("prompt", "negative_prompt")) and isinstance(value, list):
                alone.arguments[name] = [value[row]]
        key = repr(alone.arguments)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        made = self._encode(*alone.args, **alone.kwargs)
        found = tuple(None if value is None else value.detach().cpu() for value in made)
        self._keep(key, found)
        return found

    def _keep(self, key: str, found: Encoded) -> None:
        if self._kept:
            # The negative prompt is the same for all rows, and is held once.
            latest = next(reversed(self._kept.values()))
            found = tuple(map(_the_same, found, latest))
        self._kept[key] = found
        self._count(found, 1)
        while self.held > self._most_bytes:
            _, forgotten = self._kept.popitem(last=False)
            self._count(forgotten, -1)

    def _count(self, encoded: Encoded, change: int) -> None:
        """Count the uses of tensors that are kept now, or no longer."""
        for value in encoded:
            if value is None:
                continue
            address = value.data_ptr()
            before = self._uses[address]
            self._uses[address] += change
            if before == 0:
                self.held += value.nbytes
            elif self._uses[address] == 0:
                self.held -= value.nbytes
                del self._uses[address]


def _the_same(value: Tensor | None, other: Tensor | None) -> Tensor | None:
    """The other tensor where both are equal."""
    if value is None or other is None:
        return value
    return other if value.shape == other.shape and torch.equal(value, other) else value


def _join(values: Sequence[Tensor | None], device: torch.device) -> Tensor | None:
    """One output of the rows of a batch: ``[1, …]`` of each, or what has no batch axis and is the same for all."""
    tensors = [value for value in values if value is not None]
    if not tensors:
        return None
    joined = torch.cat(tensors) if len(tensors[0]) == 1 else tensors[0]
    return joined.to(device)
