"""Runs models on the ``meta`` device: real numbers have shapes only, integers and masks are computed."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from noisesmith.pipeline.models.libraries import Options

T = TypeVar("T")
Arguments = tuple[Any, ...]  # of any operation of torch
_aten = torch.ops.aten
_INDEXING = (_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default)


def without_numbers(work: Callable[[], T]) -> T:
    """The result of ``work`` on models and inputs of the ``meta`` device, its integers computed."""
    with FusedAttention(), ShapesOnly():
        return work()


class ShapesOnly(TorchDispatchMode):
    """Keeps real numbers on the ``meta`` device and counts the bytes of what is alive there.

    Integers and masks are computed, since shapes may follow from them. So a model may count image tokens or look up
    windows, and a tensor of either kind may meet one of the other.
    """

    def __init__(self) -> None:
        initialise: Callable[[], None] = super().__init__  # torch leaves it untyped
        initialise()
        self.live = 0
        self.peak = 0
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, func: Callable[..., object], types: object, args: Arguments = (), kwargs: Options | None = None
    ) -> object:
        kwargs = kwargs or {}
        given = [*_tensors(args), *_tensors(kwargs.values())]
        symbolic = any(tensor.is_meta for tensor in given)
        if symbolic and not all(tensor.is_meta for tensor in given):
            if func in _INDEXING:
                args = (args[0], _positions(args[1]), *args[2:])
            args, kwargs = tree_map(_without_numbers, (args, kwargs))
        if symbolic and func is _aten._to_copy.default and kwargs.get("device") is not None:
            kwargs = kwargs | {"device": torch.device("meta")}  # there are no numbers to copy elsewhere
        result = func(*args, **kwargs)
        made_here = not symbolic and "device" in kwargs
        if made_here and isinstance(result, Tensor) and result.is_meta and _is_whole(result):
            result = func(*args, **kwargs | {"device": torch.device("cpu")})
        self._account(given, result)
        return result

    def _account(self, given: Iterable[Tensor], result: object) -> None:
        old = {tensor.untyped_storage()._cdata for tensor in given}
        for tensor in _tensors(result if isinstance(result, tuple | list) else (result,)):
            if tensor.is_meta:
                storage = tensor.untyped_storage()
                if storage._cdata not in old:
                    self._hold(storage)
        self.peak = max(self.peak, self.live)

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        size = storage.nbytes()

        def free(_: object) -> None:
            self.live -= size
            del self._alive[key]

        if key not in self._alive:
            self.live += size
            self._alive[key] = weakref.ref(storage, free)


class FusedAttention(TorchFunctionMode):
    """Attention as a GPU's fused kernels do it, which keep no matrix of all pairs; ``meta`` would choose that."""

    def __torch_function__(
        self, func: Callable[..., object], types: object, args: Arguments = (), kwargs: Options | None = None
    ) -> object:
        if func is torch.nn.functional.scaled_dot_product_attention:
            return _fused(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,  # noqa: ARG001 (the flash kernel sees it from the shapes)
) -> Tensor:
    if attn_mask is not None and not attn_mask.is_floating_point():
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype, device=query.device)
    attended: Tensor = _aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
    )[0]
    return attended


def _tensors(values: Iterable[object]) -> Iterator[Tensor]:
    """The tensors among an operation's values, and in lists of them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from _tensors(value)


def _without_numbers(leaf: object) -> object:
    return leaf.to("meta") if isinstance(leaf, Tensor) else leaf


def _positions(indices: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Indices with each mask as the positions that it picks: their number is the result's shape."""
    picked: list[Tensor | None] = []
    for index in indices:
        if index is not None and index.dtype in (torch.bool, torch.uint8):
            picked += index.nonzero(as_tuple=True)
        else:
            picked.append(index)
    return picked


def _is_whole(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex())
