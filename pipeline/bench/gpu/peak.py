"""How many operations per second a device reaches at best: in products of square matrices, measured."""

from __future__ import annotations

from statistics import median

import torch

from noisesmith.pipeline.bench.gpu.timeline import Meter

_SMALLEST, _LARGEST = 256, 16384  # sides of the matrices; the largest ones take 1.5 GiB in 16 bits
_ENOUGH = 0.02  # seconds of a product after which no larger one is tried
_REPEATS = 5


def matmul_peak(dtype: torch.dtype, device: str, clock: Meter) -> float:
    """The most floating point operations per second that a matrix product in ``dtype`` reaches.

    A multiplication and an addition are two operations. Sides double until a product takes long enough to be timed;
    each is timed five times after one that does not count, and the median counts.

    Args:
        clock: seconds, read when the device has done all work that was given to it.
    """
    best = 0.0
    side = _SMALLEST
    while side <= _LARGEST:
        left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        left @ right
        taken = []
        for _ in range(_REPEATS):
            began = clock()
            left @ right
            taken.append(clock() - began)
        seconds = median(taken)
        best = max(best, 2 * side**3 / seconds)
        if seconds >= _ENOUGH:
            break
        side *= 2
    return best
