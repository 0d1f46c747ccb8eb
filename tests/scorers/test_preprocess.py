"""Preprocessing against the library's own processor, and its gradient against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BlipImageProcessor, CLIPImageProcessor

from noisesmith.pipeline.scorers.preprocess import (
    pad_to_square,
    preprocess,
    preprocess_reference,
    resize,
    resize_weights,
)

SIZES = [(512, 512), (333, 517), (517, 333), (50, 71), (64, 64), (48, 300), (300, 48), (600, 333)]


def _image(height: int, width: int) -> np.ndarray:
    """Noise and smooth shading, so that both rounding and overshoot matter."""
    rng = np.random.default_rng(height * width)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[: height // 2] = np.linspace(0, 255, width, dtype=np.uint8)[None, :, None]
    return pixels


@pytest.mark.parametrize("resample", [1, 2, 3])
@pytest.mark.parametrize("edge", [64, 224, 336])
@pytest.mark.parametrize("size", SIZES)
def test_equal_to_the_librarys_processor(size: tuple[int, int], edge: int, resample: int) -> None:
    processor = CLIPImageProcessor(
        size={"shortest_edge": edge}, crop_size={"height": edge, "width": edge}, resample=resample
    )
    pixels = _image(*size)
    expected = processor(Image.fromarray(pixels), return_tensors="pt")["pixel_values"]
    ours = preprocess(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255, processor)
    assert float((ours - expected).abs().max()) <= 1e-5


def test_crop_larger_than_the_image_pads_as_the_library_does() -> None:
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 48, "width": 40})
    pixels = _image(50, 71)
    expected = processor(Image.fromarray(pixels), return_tensors="pt")["pixel_values"]
    ours = preprocess(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255, processor)
    assert float((ours - expected).abs().max()) <= 1e-5


def test_one_number_for_all_channels_is_read_as_the_library_reads_it() -> None:
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, do_center_crop=False, image_mean=0.5, image_std=0.25)
    pixels = _image(50, 71)
    expected = processor(Image.fromarray(pixels), return_tensors="pt")["pixel_values"]
    ours = preprocess(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255, processor)
    assert float((ours - expected).abs().max()) <= 1e-5
    square = torch.rand(1, 3, 4, 6)
    assert torch.equal(pad_to_square(square, 0.5), pad_to_square(square, (0.5, 0.5, 0.5)))


@pytest.mark.parametrize(("filter_name", "resample"), [("lanczos", 1), ("bilinear", 2), ("bicubic", 3)])
def test_resizing_is_pillows_to_the_bit_in_either_order_of_its_passes(filter_name: str, resample: int) -> None:
    """Tall images that lose many rows are resized down first, all others across first."""
    rng = np.random.default_rng(resample)
    for height, width, new_height, new_width in [(700, 300, 336, 336), *rng.integers(4, 120, (60, 4)).tolist()]:
        pixels = _image(height, width)
        expected = np.array(Image.fromarray(pixels).resize((new_width, new_height), resample))
        levels = torch.from_numpy(pixels).permute(2, 0, 1)[None].double()
        ours = resize(levels, new_height, new_width, filter_name)[0].permute(1, 2, 0)
        assert (ours.numpy() == expected).all(), (height, width, new_height, new_width)


def test_weights_of_each_pixel_sum_to_one() -> None:
    assert torch.allclose(resize_weights(517, 224, "bicubic").sum(1), torch.ones(224, dtype=torch.float64), atol=1e-5)


def test_gradient_of_the_smooth_form_matches_finite_differences() -> None:
    processor = CLIPImageProcessor(size={"shortest_edge": 6}, crop_size={"height": 6, "width": 6})
    images = torch.rand(1, 3, 9, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: preprocess(x, processor, rounding=False), [images])


def test_rounding_passes_the_smooth_gradient() -> None:
    processor = CLIPImageProcessor(size={"shortest_edge": 6}, crop_size={"height": 6, "width": 6})
    images = torch.rand(1, 3, 9, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    direction = torch.randn(1, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rounded, exact = (
        torch.autograd.grad((preprocess(images, processor, rounding) * direction).sum(), images)[0]
        for rounding in (True, False)
    )
    assert torch.allclose(rounded, exact, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_squashing_to_a_square_equals_the_librarys_processor(size: tuple[int, int]) -> None:
    """InstructBLIP's: no crop."""
    processor = BlipImageProcessor(size={"height": 224, "width": 224})
    pixels = _image(*size)
    expected = processor(Image.fromarray(pixels), return_tensors="pt")["pixel_values"]
    ours = preprocess(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255, processor)
    assert float((ours - expected).abs().max()) <= 1e-5


@pytest.mark.parametrize("size", SIZES)
def test_padding_to_a_square_equals_pasting_on_one(size: tuple[int, int]) -> None:
    pixels, colour = _image(*size), CLIPImageProcessor().image_mean
    side, (height, width) = max(size), size
    square = Image.new("RGB", (side, side), tuple(int(value * 255) for value in colour))
    square.paste(Image.fromarray(pixels), ((side - width) // 2, (side - height) // 2))
    ours = pad_to_square(torch.from_numpy(pixels).permute(2, 0, 1)[None].double() / 255, colour)
    assert np.array_equal((ours * 255).round()[0].permute(1, 2, 0).numpy(), np.asarray(square))


def test_gradients_of_the_official_form_and_of_padding_match_finite_differences() -> None:
    processor = CLIPImageProcessor(size={"shortest_edge": 6}, crop_size={"height": 6, "width": 6})
    images = torch.randn(1, 3, 9, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: preprocess_reference(x, processor), [images])
    assert torch.autograd.gradcheck(lambda x: pad_to_square(x, processor.image_mean), [images])


def test_the_official_form_of_a_flat_image_is_its_value_in_minus_one_to_one() -> None:
    """Where every filter agrees: grey 0.75, which the official code hands over as 0.5 and calls [0, 1]."""
    processor = CLIPImageProcessor(size={"shortest_edge": 6}, crop_size={"height": 6, "width": 6})
    pixels = preprocess_reference(torch.full((1, 3, 9, 12), 0.75, dtype=torch.float64), processor)
    expected = (0.5 - torch.tensor(processor.image_mean)) / torch.tensor(processor.image_std)
    assert torch.allclose(pixels, expected.double()[None, :, None, None].expand_as(pixels))
