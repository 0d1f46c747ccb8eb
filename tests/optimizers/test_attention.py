"""Recorded maps against the layers' own projections, losses against numpy and the library, gradients against both."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionAttendAndExcitePipeline, StableDiffusionPipeline
from torch import Tensor

from noisesmith.pipeline.config import InitNoConfig
from noisesmith.pipeline.embedded import weights
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.optimizers.attention import (
    MapSize,
    RowTokens,
    attention_losses,
    choose_map_size,
    conflict_loss,
    evaluations,
    map_sizes,
    pipeline_map_size,
    record_attention,
    response_loss,
    smooth,
    subject_maps,
)

SD15 = {
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}  # its config.json was written before mid_block_type existed


@pytest.fixture(scope="module")
def tiny_unet(tiny_sd: Path) -> Any:
    return StableDiffusionPipeline.from_pretrained(tiny_sd, safety_checker=None).unet.requires_grad_(False)


@pytest.fixture(scope="module")
def embedded_unet() -> Any:
    return StableDiffusionPipeline.from_pretrained(weights("sd"), safety_checker=None).unet.requires_grad_(False)


def _inputs(unet: Any, batch: int, height: int, width: int, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(batch, unet.config.in_channels, height, width, generator=generator, dtype=dtype)
    text = torch.randn(batch, 9, unet.config.cross_attention_dim, generator=generator, dtype=dtype)
    return {"sample": latents, "timestep": torch.tensor(700), "encoder_hidden_states": text}


def _layers(unet: Any, kind: str) -> dict[str, Any]:
    return {name: module for name, module in unet.named_modules() if name.endswith(kind)}


def _softmax(scores: np.ndarray) -> np.ndarray:
    exponentials = np.exp(scores - scores.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def _probabilities(unet: Any, kind: str, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
    """Per layer ``[B, places, keys]``, from what its query and key projections gave, in float64."""
    projected: dict[str, dict[str, np.ndarray]] = {}
    hooks = []
    for name, layer in _layers(unet, kind).items():
        kept = projected.setdefault(name, {})
        for side in ("to_q", "to_k"):

            def keep(_: Any, __: Any, output: Tensor, kept: dict[str, np.ndarray] = kept, side: str = side) -> None:
                kept[side] = output.double().numpy()

            hooks.append(getattr(layer, side).register_forward_hook(keep))
    with torch.no_grad():
        unet(**inputs)
    for hook in hooks:
        hook.remove()
    means = {}
    for name, kept in projected.items():
        heads = _layers(unet, kind)[name].heads
        query, key = (kept[side].reshape(*kept[side].shape[:2], heads, -1) for side in ("to_q", "to_k"))
        scores = np.einsum("bqhd,bkhd->bhqk", query, key) / math.sqrt(query.shape[-1])
        means[name] = _softmax(scores).mean(1)
    return means


@pytest.mark.parametrize("name", ["tiny_unet", "embedded_unet"])
def test_recorded_maps_equal_the_layers_softmax(name: str, request: pytest.FixtureRequest) -> None:
    unet = request.getfixturevalue(name)
    inputs = _inputs(unet, 2, 8, 8)
    cross, own = (_probabilities(unet, kind, inputs) for kind in ("attn2", "attn1"))
    for size in map_sizes(unet.config, 8, 8):
        with torch.no_grad(), record_attention(unet, size) as maps:
            unet(**inputs)
        places = size.height * size.width
        for recorded, expected in ((maps.cross.flatten(1, 2), cross), (maps.own, own)):
            here = [values for values in expected.values() if values.shape[1] == places]
            assert len(here) >= 1
            np.testing.assert_allclose(recorded.numpy(), np.mean(here, 0), atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (8, 12), (10, 6), (7, 5)])
def test_sizes_are_those_the_layers_see(embedded_unet: Any, height: int, width: int) -> None:
    seen = {
        values.shape[1]
        for values in _probabilities(embedded_unet, "attn2", _inputs(embedded_unet, 1, height, width)).values()
    }
    sizes = map_sizes(embedded_unet.config, height, width)
    assert {size.height * size.width for size in sizes} == seen
    for size in sizes:
        with torch.no_grad(), record_attention(embedded_unet, size) as maps:
            embedded_unet(**_inputs(embedded_unet, 1, height, width))
        assert maps.cross.shape == (1, size.height, size.width, 9)
        assert maps.own.shape == (1, size.height * size.width, size.height * size.width)


def test_sizes_follow_from_the_config_alone() -> None:
    assert [tuple(size) for size in map_sizes(SD15, 64, 96)] == [(0, 64, 96), (1, 32, 48), (2, 16, 24), (3, 8, 12)]
    assert [size.side for size in map_sizes(SD15 | {"mid_block_type": None}, 64, 64)] == [64, 32, 16]
    embedded = json.loads((weights("sd") / "unet" / "config.json").read_text())
    assert [size.side for size in map_sizes(embedded, 8, 8)] == [8, 4]
    assert [size.side for size in map_sizes(embedded, 2, 2)] == [2]  # a single place has no neighbours to smooth over
    assert map_sizes({"_class_name": "SD3Transformer2DModel", "num_layers": 24}, 64, 64) == []


@pytest.mark.parametrize(
    ("height", "width", "asked", "chosen"),
    [
        (64, 64, None, (16, 16)),
        (96, 96, None, (12, 12)),  # Stable Diffusion 2.x at 768 pixels
        (64, 96, None, (16, 24)),
        (256, 256, None, (32, 32)),  # nothing as small as 16
        (64, 64, 32, (32, 32)),
        (96, 64, 8, (12, 8)),
    ],
)
def test_the_default_size_is_16_or_the_largest_below(
    height: int, width: int, asked: int | None, chosen: tuple[int, int]
) -> None:
    assert choose_map_size("initno", asked, SD15, height, width)[1:] == chosen


def test_a_size_that_the_unet_lacks_is_refused_with_those_it_has() -> None:
    with pytest.raises(UserError, match=r"^optimizer\.attention_size: 20 is no side .* use one of 64, 32, 16, 8$"):
        choose_map_size("initno", 20, SD15, 64, 64)


def test_a_denoiser_without_cross_attention_is_refused() -> None:
    transformer: Any = SimpleNamespace(transformer=SimpleNamespace(config={"num_layers": 24}))
    with pytest.raises(UserError, match=r"^optimizer\.method: initno needs a U-Net with cross-attention maps"):
        pipeline_map_size(transformer, InitNoConfig(), (16, 64, 64))


def test_recording_changes_no_output_and_puts_the_processors_back(tiny_unet: Any) -> None:
    before, inputs = tiny_unet.attn_processors, _inputs(tiny_unet, 1, 8, 8)
    with torch.no_grad():
        expected = tiny_unet(**inputs).sample
        with record_attention(tiny_unet, MapSize(0, 8, 8)):
            assert tiny_unet.attn_processors != before
            assert torch.equal(tiny_unet(**inputs).sample, expected)
    assert tiny_unet.attn_processors == before


def test_processors_are_back_after_an_error(tiny_unet: Any) -> None:
    before, inputs = tiny_unet.attn_processors, _inputs(tiny_unet, 1, 8, 8)
    with pytest.raises(RuntimeError), record_attention(tiny_unet, MapSize(0, 8, 8)):
        tiny_unet(**(inputs | {"encoder_hidden_states": torch.zeros(1, 9, 7)}))
    assert tiny_unet.attn_processors == before


def _maps(seed: int, height: int, width: int, length: int = 9) -> tuple[Tensor, Tensor]:
    """Cross- and self-attention of one row in float64, as softmaxes of random scores."""
    generator = torch.Generator().manual_seed(seed)
    cross = torch.randn(height, width, length, generator=generator, dtype=torch.float64).softmax(-1)
    places = height * width
    own = (3 * torch.randn(places, places, generator=generator, dtype=torch.float64)).softmax(-1)
    return cross, own


def _smooth_by_hand(image: np.ndarray) -> np.ndarray:
    weights_ = np.array([[math.exp(-(x * x + y * y)) for x in (-1, 0, 1)] for y in (-1, 0, 1)])
    padded = np.pad(image, 1, mode="reflect")
    height, width = image.shape
    windows = [weights_[y, x] * padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
    return np.sum(windows, 0) / weights_.sum()


def _losses_by_hand(cross: np.ndarray, own: np.ndarray, tokens: RowTokens) -> tuple[float, float]:
    text = _softmax(100 * cross[..., 1 : tokens.stop])
    maps = [_smooth_by_hand(np.sum([text[..., place - 1] for place in places], axis=0)) for places in tokens.subjects]
    response = max(1 - image.max() for image in maps)
    attended = [_smooth_by_hand(own[image.argmax()].reshape(image.shape)) for image in maps]
    pairs = [(a, b) for i, a in enumerate(attended) for b in attended[i + 1 :]]
    conflict = np.mean([np.minimum(a, b).sum() / (a.sum() + b.sum()) for a, b in pairs]) if pairs else 0.0
    return response, float(conflict)


@pytest.mark.parametrize("shape", [(8, 8), (5, 7), (2, 3)])
@pytest.mark.parametrize(
    "tokens",
    [RowTokens(((2,), (5,)), 8), RowTokens(((2, 3), (5,), (6,)), 7), RowTokens(((1,),), 3)],
    ids=["two", "three, one of two tokens", "one"],
)
def test_losses_equal_their_definition_in_numpy(shape: tuple[int, int], tokens: RowTokens) -> None:
    cross, own = _maps(sum(shape), *shape)
    maps = subject_maps(cross, tokens)
    response, conflict = _losses_by_hand(cross.numpy(), own.numpy(), tokens)
    assert float(response_loss(maps)) == pytest.approx(response, abs=1e-12)
    assert float(conflict_loss(maps, own)) == pytest.approx(conflict, abs=1e-12)
    assert 0 <= response <= 1
    assert 0 <= conflict <= 0.5


@pytest.mark.filterwarnings("ignore:torch.meshgrid")
def test_the_response_is_the_librarys_attend_and_excite_loss() -> None:
    cross = _maps(1, 8, 8)[0].float()
    theirs = StableDiffusionAttendAndExcitePipeline._compute_max_attention_per_index(cross.clone(), [2, 5])
    maps = subject_maps(cross, RowTokens(((2,), (5,)), 8))
    torch.testing.assert_close(maps.flatten(1).amax(1), torch.stack(theirs))
    expected = StableDiffusionAttendAndExcitePipeline._compute_loss(theirs)
    torch.testing.assert_close(response_loss(maps), expected)


def test_subjects_in_one_place_conflict_fully_and_subjects_apart_do_not() -> None:
    own = torch.eye(64, dtype=torch.float64)
    here, there = torch.zeros(8, 8, dtype=torch.float64), torch.zeros(8, 8, dtype=torch.float64)
    here[1, 1], there[6, 6] = 1.0, 1.0
    assert float(conflict_loss(torch.stack([here, here]), own)) == pytest.approx(0.5)
    assert float(conflict_loss(torch.stack([here, there]), own)) == 0.0


def test_smoothing_keeps_a_constant() -> None:
    torch.testing.assert_close(smooth(torch.full((2, 4, 6), 0.3)), torch.full((2, 4, 6), 0.3))


def _check_gradient(function: Callable[[Tensor], Tensor], at: Tensor) -> None:
    """A directional derivative in float64 against central differences."""
    point = at.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(point), point)
    direction = torch.randn(at.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    with torch.no_grad():
        difference = (function(at + 1e-5 * direction) - function(at - 1e-5 * direction)) / 2e-5
    assert float(difference) == pytest.approx(float((gradient * direction).sum()), rel=1e-4)
    assert float(gradient.abs().max()) > 0


def test_gradients_of_the_losses_equal_finite_differences() -> None:
    tokens = RowTokens(((2, 3), (5,)), 8)
    cross, own = _maps(2, 6, 4)
    _check_gradient(lambda x: response_loss(subject_maps(x, tokens)), cross)
    _check_gradient(lambda x: conflict_loss(subject_maps(cross, tokens), x), own)


def test_gradients_through_the_unet_equal_finite_differences(tiny_sd: Path) -> None:
    unet = StableDiffusionPipeline.from_pretrained(tiny_sd, safety_checker=None).unet.double()
    inputs = _inputs(unet, 1, 8, 8, torch.float64)

    def loss(latents: Tensor, which: int) -> Tensor:
        text = 20 * inputs["encoder_hidden_states"]  # random weights attend to everything alike otherwise
        tokens = [RowTokens(((2,), (5,)), 8)]
        return attention_losses(unet, latents, inputs["timestep"], text, tokens, MapSize(0, 8, 8))[which].sum()

    _check_gradient(lambda latents: loss(latents, 0), inputs["sample"])
    _check_gradient(lambda latents: loss(latents, 1), inputs["sample"])


def test_a_rows_gradient_is_its_own(tiny_unet: Any) -> None:
    inputs = _inputs(tiny_unet, 3, 8, 8)
    tokens = [RowTokens(((2,), (5,)), 8), RowTokens(((1, 2),), 6), RowTokens(((3,), (4,), (5,)), 7)]

    def gradients(rows: list[int]) -> Tensor:
        latents = inputs["sample"][rows].requires_grad_()
        text = 20 * inputs["encoder_hidden_states"][rows]
        losses = attention_losses(
            tiny_unet, latents, inputs["timestep"], text, [tokens[row] for row in rows], MapSize(0, 8, 8)
        )
        return torch.autograd.grad(torch.stack([*losses]).sum(), latents)[0]

    together = gradients([0, 1, 2])
    for row in range(3):
        alone = gradients([row])[0]
        assert float(alone.abs().max()) > 0
        torch.testing.assert_close(together[row], alone, rtol=1e-3, atol=1e-6)


def test_a_guided_step_is_the_unit_of_cost() -> None:
    assert evaluations(7.5, forwards=2) == 1.0
    assert evaluations(7.5, forwards=1, backwards=1) == 1.5
    assert evaluations(1.0, forwards=1, backwards=1) == 3.0  # without guidance a step is one forward
