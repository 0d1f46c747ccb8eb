"""How z_0 follows z_T while a model's predictions are held constant, measured on the pipeline itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from noisesmith.pipeline.lazily import torch

if TYPE_CHECKING:
    from torch import Tensor


BASE = 1024  # a place is found by its digits to this base, which survive float32 sums over many sampler steps
TOLERANCE = 1e-3  # of the largest change, by which a pipeline may depart from the map that was found


@dataclass(frozen=True)
class Selection:
    """z_0 = scale · z_T[source] + const: packing and normalising move and scale numbers, and mix none of them.

    Attributes:
        source: int64 ``[D]``: for each number of z_0 the place in z_T of the one that it follows.
        scale: float32 ``[D]``: by how much.
        shape: of z_T.
    """

    source: Tensor
    scale: Tensor
    shape: tuple[int, ...]

    def pull_back(self, slope: Tensor) -> Tensor:
        """∂s/∂z_T of the z_T's shape from ∂s/∂z_0 of any shape with D numbers."""
        pulled = torch.zeros(len(self.source))
        pulled[self.source] = slope.flatten() * self.scale
        return pulled.reshape(self.shape)


def find_selection(run: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Selection | None:
    """The map from z_T to z_0, or ``None`` where z_0 does not follow z_T number by number.

    Args:
        run: z_0 of a z_T of ``shape``, with constant predictions.
    """
    size = math.prod(shape)
    constant = run(torch.zeros(shape)).flatten()
    scale = run(torch.ones(shape)).flatten() - constant
    if len(scale) != size or not bool((scale.isfinite() & (scale != 0)).all()):
        return None
    places = torch.arange(size)
    source = torch.zeros(size, dtype=torch.int64)
    unit = 1
    while unit < size:
        digits = (places // unit % BASE).float()
        followed = (run(digits.reshape(shape)).flatten() - constant) / scale
        source += followed.round().long() * unit
        unit *= BASE
    if not torch.equal(source.sort().values, places):
        return None
    noise = torch.randn(size, generator=torch.Generator().manual_seed(1))
    change = run(noise.reshape(shape)).flatten() - constant
    departure = float((change - scale * noise[source]).abs().max())
    if not departure <= TOLERANCE * float(change.abs().max()):
        return None
    return Selection(source, scale, shape)
