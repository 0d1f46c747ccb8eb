"""Image preprocessing in torch: the libraries' PIL processors, bit for bit, with a gradient.

Pillow resizes 8-bit images in two passes, across and down, with fixed-point weights and rounds after each. Here both
passes are products with the same weights, and rounding passes the gradient straight through, so the model sees what it
would see of the written PNG. With ``rounding=False`` every step is smooth, for checks by finite differences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from noisesmith.pipeline.lazily import torch
from noisesmith.pipeline.models.libraries import ImageProcessor

if TYPE_CHECKING:
    from torch import Tensor

PRECISION_BITS = 22  # of Pillow's fixed-point weights for 8-bit images (Resample.c)


def _bicubic(x: float) -> float:
    x = abs(x)  # Keys' cubic with a = −0.5
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * -0.5 if x < 2 else 0.0


def _bilinear(x: float) -> float:
    return max(0.0, 1 - abs(x))


def _lanczos(x: float) -> float:
    return float(np.sinc(x) * np.sinc(x / 3)) if -3 <= x < 3 else 0.0


FILTERS: dict[str, tuple[Callable[[float], float], float]] = {
    "bilinear": (_bilinear, 1.0),
    "bicubic": (_bicubic, 2.0),
    "lanczos": (_lanczos, 3.0),
}
PIL_RESAMPLE = {1: "lanczos", 2: "bilinear", 3: "bicubic"}


@lru_cache(maxsize=32)
def resize_weights(source: int, target: int, filter_name: str) -> Tensor:
    """Pillow's weights of ``source`` pixels in each of ``target`` pixels: ``[target, source]`` float64."""
    kernel, radius = FILTERS[filter_name]
    scale = source / target
    stretch = max(scale, 1.0)
    support = radius * stretch
    weights = np.zeros((target, source))
    for pixel in range(target):
        centre = (pixel + 0.5) * scale
        first = max(0, int(centre - support + 0.5))
        last = min(source, int(centre + support + 0.5))
        values = np.array([kernel((position - centre + 0.5) / stretch) for position in range(first, last)])
        fixed = values / values.sum() * (1 << PRECISION_BITS)
        weights[pixel, first:last] = np.trunc(fixed + np.copysign(0.5, fixed))
    return torch.from_numpy(weights / (1 << PRECISION_BITS))


def quantise(levels: Tensor) -> Tensor:
    """Round grey levels to whole numbers in 0..255, halves up, as Pillow does; the gradient passes straight through."""
    return levels + (torch.floor(levels + 0.5).clamp(0, 255) - levels).detach()


def resize(levels: Tensor, height: int, width: int, filter_name: str, rounding: bool = True) -> Tensor:
    """Resize grey levels ``[B, 3, H, W]`` float64 in 0..255 to ``height`` × ``width`` as ``PIL.Image.resize`` does.

    Across first; down first where the image loses more than twice as many rows as columns (since Pillow 13).
    """
    lost_rows = levels.shape[-2] - height
    lost_columns = levels.shape[-1] - width
    passes = [(-1, width), (-2, height)]
    if lost_rows > max(0, 2 * lost_columns):
        passes.reverse()
    for axis, target in passes:
        if levels.shape[axis] != target:
            weights = resize_weights(levels.shape[axis], target, filter_name).to(levels)
            levels = levels @ weights.T if axis == -1 else weights @ levels
            levels = quantise(levels) if rounding else levels
    return levels


def _target_size(height: int, width: int, size: dict[str, int]) -> tuple[int, int]:
    if "shortest_edge" not in size:
        return size["height"], size["width"]
    edge = size["shortest_edge"]
    if height <= width:
        return edge, int(edge * width / height)
    return int(edge * height / width), edge


def _centre_crop(levels: Tensor, height: int, width: int) -> Tensor:
    top = (levels.shape[-2] - height) // 2
    left = (levels.shape[-1] - width) // 2
    if top < 0 or left < 0:  # the crop is larger than the image: black around it, as in the library
        across = max(-left, 0)
        down = max(-top, 0)
        levels = torch.nn.functional.pad(levels, [across, across, down, down])
        top = (levels.shape[-2] - height) // 2
        left = (levels.shape[-1] - width) // 2
    return levels[..., top : top + height, left : left + width]


def preprocess(images: Tensor, processor: ImageProcessor, rounding: bool = True) -> Tensor:
    """Pixel values of a CLIP-style image processor (resize, centre crop, rescale, normalise).

    Args:
        images: ``[B, 3, H, W]`` in [0, 1].
        processor: a transformers image processor, read for its settings only.
        rounding: quantise to 8 bits wherever the library does; ``False`` keeps every step smooth.

    Returns:
        ``[B, 3, h, w]`` as :func:`precise`, equal to the processor's ``pixel_values`` of the same image as PNG.
    """
    levels = resize_and_crop(grey_levels(images, rounding), processor, rounding)
    return precise(normalise(levels, processor), images)


def grey_levels(images: Tensor, rounding: bool = True) -> Tensor:
    """Grey levels float64 in 0..255 of images in [0, 1], whole ones where ``rounding`` is set."""
    levels = images.double() * 255
    return quantise(levels) if rounding else levels


def resize_and_crop(levels: Tensor, processor: ImageProcessor, rounding: bool = True) -> Tensor:
    """Grey levels ``[B, 3, h, w]`` of ``[B, 3, H, W]``: the processor's resize and centre crop, where it has them."""
    if processor.do_resize:
        height, width = _target_size(levels.shape[-2], levels.shape[-1], dict(processor.size))
        levels = resize(levels, height, width, PIL_RESAMPLE[int(processor.resample)], rounding)
    if getattr(processor, "do_center_crop", False):
        levels = _centre_crop(levels, processor.crop_size["height"], processor.crop_size["width"])
    return levels


def normalise(levels: Tensor, processor: ImageProcessor) -> Tensor:
    """Pixel values ``[…, 3, h, w]`` float64 of grey levels: the processor's rescaling and normalisation."""
    if processor.do_rescale:
        levels = levels * processor.rescale_factor
    if processor.do_normalize:
        levels = (levels - _per_channel(processor.image_mean, levels)) / _per_channel(processor.image_std, levels)
    return levels


def precise(values: Tensor, images: Tensor) -> Tensor:
    """Float64 values in float32, or as they are for float64 ``images``; a scorer rounds them to its own type."""
    return values.to(torch.promote_types(images.dtype, torch.float32))


def _per_channel(values: Sequence[float] | float, like: Tensor) -> Tensor:
    """A processor's values as ``[3 or 1, 1, 1]``: where its file has one number, it is that of all channels."""
    return like.new_tensor(values).reshape(-1, 1, 1)


def pad_to_square(images: Tensor, colour: Sequence[float] | float) -> Tensor:
    """Images ``[B, 3, H, W]`` in [0, 1] centred on a square of one colour, as LLaVA's and CLIP-FlanT5's ``pad`` does.

    Args:
        colour: RGB in [0, 1] or one number for all three, cut (not rounded) to 8 bits; the image processor's mean.
    """
    images = precise(images, images)  # half precision has no room for all 8-bit levels
    height, width = images.shape[-2:]
    side = max(height, width)
    if height == width:
        return images
    channels = [colour] * 3 if isinstance(colour, float | int) else colour
    levels = images.new_tensor([int(value * 255) / 255 for value in channels])
    square = levels[None, :, None, None].repeat(len(images), 1, side, side)
    top = (side - height) // 2
    left = (side - width) // 2
    square[..., top : top + height, left : left + width] = images
    return square


def preprocess_torchvision(images: Tensor, processor: ImageProcessor, rounding: bool = True, *, by_pil: bool) -> Tensor:
    """Pixel values as torchvision's ``Resize``, ``CenterCrop`` and ``Normalize`` make them.

    Its crop rounds the left and upper edge, where the library's processors cut a half off.

    Args:
        images: ``[B, 3, H, W]`` in [0, 1].
        processor: an image processor, read for its size, mean and standard deviation.
        rounding: as in :func:`preprocess`.
        by_pil: the image is resized by Pillow; otherwise as a tensor, whose values are neither rounded nor clamped.

    Returns:
        ``[B, 3, edge, edge]`` as :func:`precise`.
    """
    levels = grey_levels(images, rounding)
    height, width = _target_size(levels.shape[-2], levels.shape[-1], dict(processor.size))
    levels = resize(levels, height, width, PIL_RESAMPLE[int(processor.resample)], rounding and by_pil)
    return precise(normalise(_crop_rounded(levels, min(height, width)), processor), images)


def _crop_rounded(levels: Tensor, edge: int) -> Tensor:
    """The square in the middle, its position rounded to even."""
    top = round((levels.shape[-2] - edge) / 2)
    left = round((levels.shape[-1] - edge) / 2)
    return levels[..., top : top + edge, left : left + edge]


def preprocess_reference(images: Tensor, processor: ImageProcessor) -> Tensor:
    """Pixel values as Noise Diffusion's official implementation makes them of the VAE's output, faults included.

    The output, in [−1, 1] and beyond, is taken as if it were in [0, 1]: no shift, no clamp, no 8-bit rounding. Its
    short edge is resized with the tensor bicubic of its time (no antialiasing), then centre crop and normalisation.

    Args:
        images: ``[B, 3, H, W]``, the VAE's output x as x/2 + 0.5, not clamped.
        processor: a transformers image processor, read for its size, mean and standard deviation.

    Returns:
        ``[B, 3, size, size]`` as :func:`precise`.
    """
    levels = images.double() * 2 - 1
    size = dict(processor.size)
    edge = size.get("shortest_edge") or size["height"]
    target = _target_size(levels.shape[-2], levels.shape[-1], {"shortest_edge": edge})
    levels = torch.nn.functional.interpolate(levels, target, mode="bicubic", align_corners=False, antialias=False)
    levels = _crop_rounded(levels, edge)
    mean = _per_channel(processor.image_mean, levels)
    std = _per_channel(processor.image_std, levels)
    return precise((levels - mean) / std, images)
