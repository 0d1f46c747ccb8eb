"""What a forward pass, or a forward and a backward one, costs: measured on tensors that have shapes and no numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from noisesmith.pipeline.models.libraries import Model
from noisesmith.pipeline.models.quantized import stored_bytes
from noisesmith.pipeline.models.shapes import FusedAttention, ShapesOnly

_aten = torch.ops.aten


@dataclass(frozen=True)
class Cost:
    """Floating point operations, and the most bytes that tensors held at once besides the weights and inputs.

    ``once`` is how many of the operations a row takes for its first image alone.
    """

    flops: int
    peak_bytes: int
    once: int = 0


def parameters(model: Model) -> int:
    """How many parameters a model has; one that is shared counts once."""
    return sum(one.numel() for one in model.parameters())


def weight_bytes(model: Model) -> int:
    """Bytes of the parameters and buffers of a model without weights, quantised ones with their scales.

    A table of positions can be a buffer.
    """
    return sum(map(stored_bytes, [*model.parameters(), *model.buffers()]))


def measure(work: Callable[[], object]) -> Cost:
    """The cost of ``work`` on models and inputs of the ``meta`` device.

    Each tensor that an operation makes counts from there until nothing refers to it, autograd's saved tensors among
    them. So the peak is what torch's allocator hands out; not in it are kernels' own workspaces and the allocator's
    spare blocks. A multiplication and an addition are two operations; those of matrix products, convolutions and
    attention are counted.

    Raises:
        NotImplementedError, RuntimeError: the model asks for numbers, which are not there.
    """
    memory = ShapesOnly()
    with FusedAttention(), operations_counter() as operations, memory:
        work()
    return Cost(operations(), memory.peak)


@contextmanager
def operations_counter() -> Iterator[Callable[[], int]]:
    """Count the floating point operations of the block; see :func:`measure`. Yields what tells how many there were."""
    with FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION) as counter:
        yield counter.get_total_flops


def _forward_flops(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: object, **__: object) -> int:
    operations: int = sdpa_flop_count(query, key, value)
    return operations


def _backward_flops(
    gradient: Sequence[int], query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: object, **__: object
) -> int:
    operations: int = sdpa_backward_flop_count(gradient, query, key, value)
    return operations


_CPU_ATTENTION = {  # the counter knows the fused attention of CUDA only
    _aten._scaled_dot_product_flash_attention_for_cpu: _forward_flops,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _backward_flops,
}
