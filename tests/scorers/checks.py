"""Checks that every scorer passes, whatever its family."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm

from noisesmith.pipeline.config import GeneratorConfig, ScorerConfig
from noisesmith.pipeline.generators import Decoder, find_generator, load_decoder
from noisesmith.pipeline.scorers import Group, Member, find_scorer
from noisesmith.pipeline.scorers.clip_flant5 import ClipFlanT5
from noisesmith.pipeline.scorers.llava import Llava
from noisesmith.pipeline.search.score import score_latents

STEP = 1e-5


def alone(scorer: Any) -> Group:
    """A panel of one, which sees what the decoder makes."""
    return Group((Member(scorer, overshoots=True),))


def decoder_in_float64(model: Path, *, clamp: bool = True) -> Decoder:
    """The decoder of a generator's folder with its weights as float64, for finite differences."""
    decoder = load_decoder(find_generator(GeneratorConfig(model=str(model))), "cpu", clamp=clamp)
    decoder.vae.double()
    return decoder


def two_scorers_in_float64(llava: Path, clip_flant5: Path, **settings: Any) -> tuple[Llava, ClipFlanT5]:
    """Two families with weights as float64 and smooth preprocessing; ``settings`` are those of their sections."""
    found = [find_scorer(ScorerConfig(model=str(model), **settings)) for model in (llava, clip_flant5)]
    in_float64 = [replace(one, type_name="float64") for one in found]
    return Llava(in_float64[0], "cpu", rounding=False), ClipFlanT5(in_float64[1], "cpu", rounding=False)


def compute_norms_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's own norms of both families compute in float32 whatever the model's dtype."""

    def norm(self: LlamaRMSNorm | T5LayerNorm, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.rms_norm(x, self.weight.shape, self.weight, self.variance_epsilon)

    for kind in (LlamaRMSNorm, T5LayerNorm):
        monkeypatch.setattr(kind, "forward", norm)


def compute_in_float64(monkeypatch: pytest.MonkeyPatch, *, casts: bool = True) -> None:
    """What the library computes in float32 whatever the dtype: norms, rotations, some softmaxes, linear attention.

    Args:
        casts: also where it casts to float32.
    """
    from transformers.models.llama import modeling_llama
    from transformers.models.qwen2 import modeling_qwen2
    from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl
    from transformers.models.qwen2_vl import modeling_qwen2_vl
    from transformers.models.qwen3_5 import modeling_qwen3_5
    from transformers.models.qwen3_vl import modeling_qwen3_vl

    class InFloat64:
        """``torch`` for a module that names float32 in many places."""

        float32 = torch.float64

        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

    def as_float(self: torch.Tensor) -> torch.Tensor:
        return self if self.dtype == torch.float64 else self.to(torch.float32)

    def norm(self: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.rms_norm(x, self.weight.shape, self.weight, self.variance_epsilon)

    def softmax(x: torch.Tensor, dim: int, **options: Any) -> torch.Tensor:
        return x.softmax(dim)

    norms = (
        modeling_llama.LlamaRMSNorm,
        modeling_qwen2.Qwen2RMSNorm,
        modeling_qwen2_vl.Qwen2VLRMSNorm,
        modeling_qwen2_5_vl.Qwen2_5_VLRMSNorm,
        modeling_qwen3_vl.Qwen3VLTextRMSNorm,
    )
    for norm_class in norms:
        monkeypatch.setattr(norm_class, "forward", norm)
    if casts:
        monkeypatch.setattr(torch.Tensor, "float", as_float)
    monkeypatch.setattr(torch.nn.functional, "softmax", softmax)
    monkeypatch.setattr(modeling_qwen3_5, "torch", InFloat64())


def small_latents(count: int) -> torch.Tensor:
    """z_0 ``[count, 4, 8, 8]`` float64, the same at every call."""
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(3)).double() * 0.15


def assert_gradient_matches_finite_differences(
    decoder: Decoder, scorer: Any, prompt: str, latents: torch.Tensor, stride: int
) -> None:
    """∂log s/∂z_0 of one float64 z_0 ``[1, C, h, w]`` against central differences at every ``stride``-th coordinate."""
    analytic = score_latents(decoder, alone(scorer), [prompt], latents, gradient=True).log_gradients
    assert analytic is not None
    assert float(analytic.abs().max()) > 0
    for coordinate in range(0, latents.numel(), stride):
        delta = torch.zeros_like(latents)
        delta.view(-1)[coordinate] = STEP
        ahead, behind = (
            float(score_latents(decoder, alone(scorer), [prompt], moved, gradient=False).log_scores)
            for moved in (latents + delta, latents - delta)
        )
        numeric = (ahead - behind) / (2 * STEP)
        assert numeric == pytest.approx(float(analytic.view(-1)[coordinate]), rel=1e-4, abs=1e-9)


def assert_batch_equals_one_by_one(decoder: Decoder, scorer: Any, prompts: list[str], latents: torch.Tensor) -> None:
    """Scores and gradients of prompts of mixed lengths, together and alone."""
    together = score_latents(decoder, alone(scorer), prompts, latents, gradient=True)
    for position, prompt in enumerate(prompts):
        single = score_latents(decoder, alone(scorer), [prompt], latents[position : position + 1], gradient=True)
        assert single.log_gradients is not None
        assert together.log_gradients is not None
        assert float(single.scores) == pytest.approx(float(together.scores[0, position]), rel=1e-4)
        difference = (single.log_gradients[0] - together.log_gradients[position]).norm() / single.log_gradients[
            0
        ].norm()
        assert float(difference) < 1e-3


def assert_special_tokens_are_text(scorer: Any, tokens: list[str]) -> None:
    """A prompt made of control tokens reads as one with them broken up, and does not affect its neighbour."""
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    hostile = broken_up = f"a {' '.join(reversed(tokens))} dog and an <image> {{question}} {{prompt}}"
    for token in tokens:
        broken_up = broken_up.replace(token, f"{token[0]} {token[1:]}")
    together = scorer.log_scores([hostile, "a dog"], images)
    alone = [scorer.log_scores([prompt], images[row : row + 1]) for row, prompt in enumerate([broken_up, "a dog"])]
    assert together.exp().tolist() == pytest.approx(torch.cat(alone).exp().tolist(), rel=1e-4)


def assert_half_precision_is_exact(scorer: Any, prompts: list[str], images: torch.Tensor) -> None:
    """A float32 scorer says the same of images ``[B, 3, H, W]`` of a VAE in bfloat16 as of these numbers in float32."""
    half = images.bfloat16()
    assert torch.equal(scorer.log_scores(prompts, half), scorer.log_scores(prompts, half.float()))
