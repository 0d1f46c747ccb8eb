"""What a forward pass, or a forward and a backward one, costs: measured on tensors that have shapes and no numbers."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

_aten = torch.ops.aten
_INDEXING = (_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default)
FORMULAS: dict[Any, Callable[..., int]] = (
    flop_registry
    | {  # which has the fused attention of CUDA alone
        _aten._scaled_dot_product_flash_attention_for_cpu: lambda *given, **_: sdpa_flop_count(
            *(tensor.shape for tensor in given[:3])
        ),
        _aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda *given, **_: sdpa_backward_flop_count(
            *(tensor.shape for tensor in given[:4])
        ),
    }
)


@dataclass(frozen=True)
class Cost:
    """Floating point operations, and the most bytes that tensors held at once beside the weights and inputs."""

    flops: int
    peak_bytes: int


def measure(work: Callable[[], Any]) -> Cost:
    """The cost of ``work`` on models and inputs of the ``meta`` device.

    Each tensor that an operation makes counts from there until nothing refers to it, autograd's saved tensors among
    them. So the peak is what torch's allocator hands out; not in it are kernels' own workspaces and the allocator's
    spare blocks. A multiplication and an addition are two operations; those of matrix products, convolutions and
    attention are counted.

    Raises:
        NotImplementedError, RuntimeError: the model asks for numbers, which are not there.
    """
    shapes = _ShapesAlone()
    with _FusedAttention(), shapes:
        work()
    return Cost(shapes.flops, shapes.peak)


class _ShapesAlone(TorchDispatchMode):
    """Real numbers stay on the ``meta`` device; integers and masks are worked out, since shapes may follow from them.

    So a model may count image tokens or look up windows, and a tensor of either kind may meet one of the other.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.live = self.peak = 0
        self._alive: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [*_tensors(args), *_tensors(kwargs.values())]
        symbolic = any(tensor.is_meta for tensor in given)
        if symbolic and not all(tensor.is_meta for tensor in given):
            if func in _INDEXING:
                args = (args[0], _places(args[1]), *args[2:])
            args, kwargs = tree_map(lambda leaf: leaf.to("meta") if isinstance(leaf, Tensor) else leaf, (args, kwargs))
        result = func(*args, **kwargs)
        if not symbolic and "device" in kwargs and isinstance(result, Tensor) and result.is_meta and _whole(result):
            result = func(*args, **kwargs | {"device": torch.device("cpu")})
        if func.overloadpacket in FORMULAS:
            self.flops += FORMULAS[func.overloadpacket](*args, **kwargs, out_val=result)
        self._account(given, result)
        return result

    def _account(self, given: Sequence[Tensor], result: Any) -> None:
        old = {tensor.untyped_storage()._cdata for tensor in given}
        for tensor in _tensors(result if isinstance(result, tuple | list) else (result,)):
            if tensor.is_meta:
                storage = tensor.untyped_storage()
                if storage._cdata not in old:
                    self._hold(storage)
        self.peak = max(self.peak, self.live)

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()

        def free(_: Any) -> None:
            self.live -= size
            del self._alive[key]

        if key not in self._alive:
            self.live += size
            self._alive[key] = weakref.ref(storage, free)


class _FusedAttention(TorchFunctionMode):
    """Attention as a GPU's fused kernels do it, which keep no matrix of all pairs; ``meta`` would choose that."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
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
    enable_gqa: bool = False,
) -> Tensor:
    if attn_mask is not None and not attn_mask.is_floating_point():
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype, device=query.device)
    attended: Tensor = _aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
    )[0]
    return attended


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among an operation's values, and in lists of them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from _tensors(value)


def _places(indices: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Indices with each mask as the places that it picks, whose number is its result's shape."""
    picked: list[Tensor | None] = []
    for index in indices:
        mask = index is not None and index.dtype in (torch.bool, torch.uint8)
        picked += index.nonzero(as_tuple=True) if index is not None and mask else [index]
    return picked


def _whole(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex())
