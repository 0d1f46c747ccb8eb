"""Text conditioning that is computed once per prompt, however many images are made for it."""

from __future__ import annotations

import inspect
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from noisesmith.pipeline.lazily import torch

if TYPE_CHECKING:
    from torch import Tensor

MOST_BYTES = 512 * 2**20  # of main memory: 4,000 prompts of SD 1.5, 190 of SD 3.5 with its T5, 34 of FLUX.2-dev

Value: TypeAlias = "Tensor | list[Tensor] | None"  # a list has one tensor per prompt
Encoded: TypeAlias = "tuple[Value, ...]"


class Join(Protocol):
    """Makes what a pipeline encodes of several prompts of what it encodes of each alone."""

    def __call__(self, rows: Sequence[Encoded], /) -> Encoded: ...


class RememberedText:
    """A pipeline's ``encode_prompt`` that remembers what it has returned for each prompt, last used last.

    Each prompt is encoded alone, so that its embeddings depend on no other row of a batch. They are kept in main
    memory, at most ``most_bytes`` of them.

    Args:
        encode: the pipeline's own method.
        join: what it returns for several prompts, made of what it has returned for each of them alone.

    Attributes:
        held: bytes that are kept.
    """

    def __init__(
        self,
        encode: Callable[..., Encoded],
        join: Join,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._encode = encode
        self._join = join
        self.__wrapped__ = encode
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
        has_embeddings = any(value is not None for name, value in given.items() if "embeds" in name)
        if not isinstance(prompts, list) or device is None or has_embeddings:
            return self._encode(*args, **options)
        rows = [self._row(asked, row) for row in range(len(prompts))]
        return tuple(_moved(value, device) for value in self._join(rows))

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
        found = tuple(_moved(value, torch.device("cpu")) for value in made)
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
        for value in _tensors(encoded):
            address = value.data_ptr()
            before = self._uses[address]
            self._uses[address] += change
            if before == 0:
                self.held += value.nbytes
            elif self._uses[address] == 0:
                self.held -= value.nbytes
                del self._uses[address]


def join_rows(rows: Sequence[Encoded]) -> Encoded:
    """The outputs of the rows of a batch, of pipelines whose embeddings all have one length or are in a list."""
    return tuple(_joined(values) for values in zip(*rows, strict=True))


def join_padded(rows: Sequence[Encoded]) -> Encoded:
    """Embeddings and mask, of pipelines that pad to the longest prompt of a batch; no mask where nothing is padded.

    Args:
        rows: embeddings ``[1, L, E]`` of each prompt, of different lengths L.

    Returns:
        embeddings ``[B, longest, E]`` and a mask ``[B, longest]``, 1 where there is text.
    """
    texts: list[Tensor] = []
    for value, _ in rows:
        if isinstance(value, torch.Tensor):
            texts.append(value[0])
    marks = [torch.ones(len(text), dtype=torch.long) for text in texts]
    embeddings = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence(marks, batch_first=True)
    return embeddings, None if bool(mask.all()) else mask


def _tensors(encoded: Encoded) -> Iterator[Tensor]:
    for value in encoded:
        if isinstance(value, list):
            yield from value
        elif value is not None:
            yield value


def _moved(value: Value, device: torch.device) -> Value:
    if isinstance(value, list):
        return [one.detach().to(device) for one in value]
    return None if value is None else value.detach().to(device)


def _the_same(value: Value, other: Value) -> Value:
    """The other value where both are equal."""
    ours, others = list(_tensors((value,))), list(_tensors((other,)))
    if type(value) is not type(other) or len(ours) != len(others):
        return value
    equal = all(one.shape == two.shape and torch.equal(one, two) for one, two in zip(ours, others, strict=True))
    return other if equal else value


def _joined(values: Sequence[Value]) -> Value:
    """One output of a batch: ``[1, …]`` of each row, a list of each, or what has no batch axis and is the same."""
    if isinstance(values[0], list):
        return list(_tensors(tuple(values)))
    tensors = list(_tensors(tuple(values)))
    if not tensors:
        return None
    return torch.cat(tensors) if len(tensors[0]) == 1 else tensors[0]
