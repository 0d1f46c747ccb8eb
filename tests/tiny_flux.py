"""Tiny pipelines whose latents are FLUX's: random weights, the true classes, saved as users' checkpoints are."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKLFlux2,
    ChromaPipeline,
    ChromaTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    OvisImagePipeline,
    OvisImageTransformer2DModel,
)
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPTextModel,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PixtralImageProcessor,
    Qwen3ForCausalLM,
    Qwen3Model,
)

from tests import tiny
from tests.tiny_generators import TOKENS, clip
from tests.tiny_parts import SHIFTED, TYPED_CHAT, chat_tokenizer, flux_vae, qwen3, t5


def flux(folder: Path, *, guidance: bool = False) -> Path:
    """``FluxPipeline``: packed latents, CLIP and T5; ``guidance`` makes it FLUX.1-dev and not schnell."""
    torch.manual_seed(11)
    scheduler = SHIFTED if guidance else {"shift": 1.0}
    tokens = tiny.tokenizer(TOKENS, template=True)
    FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**scheduler),
        vae=flux_vae(),
        text_encoder=clip(CLIPTextModel, 32, "quick_gelu"),
        tokenizer=tokens,
        text_encoder_2=t5(len(tokens)),
        tokenizer_2=tiny.tokenizer(TOKENS, template=True),
        transformer=FluxTransformer2DModel(
            in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=32, pooled_projection_dim=32, guidance_embeds=guidance, axes_dims_rope=(4, 4, 8),
        ),
    ).save_pretrained(folder, safe_serialization=True)  # fmt: skip
    return folder


def flux_dev(folder: Path) -> Path:
    return flux(folder, guidance=True)


def chroma(folder: Path) -> Path:
    """``ChromaPipeline``: FLUX's latents, T5 alone with a mask, guidance in a second pass."""
    torch.manual_seed(17)
    tokens = tiny.tokenizer(TOKENS, template=True)
    ChromaPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=flux_vae(),
        text_encoder=t5(len(tokens)),
        tokenizer=tokens,
        transformer=ChromaTransformer2DModel(
            in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=32, axes_dims_rope=(4, 4, 8), approximator_num_channels=8,
            approximator_hidden_dim=16, approximator_layers=1,
        ),
    ).save_pretrained(folder, safe_serialization=True)  # fmt: skip
    return folder


def flux2_klein(folder: Path, *, distilled: bool = False) -> Path:
    """``Flux2KleinPipeline``: three layers of Qwen3, latents that the VAE's own statistics normalise."""
    torch.manual_seed(18)
    tokens = chat_tokenizer(512)
    Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**SHIFTED, time_shift_type="exponential"),
        vae=_flux2_vae(),
        text_encoder=Qwen3ForCausalLM(qwen3(len(tokens), layers=28)),
        tokenizer=tokens,
        transformer=_flux2_transformer(guidance=False),
        is_distilled=distilled,
    ).save_pretrained(folder, safe_serialization=True)
    return folder


def _flux2_vae() -> AutoencoderKLFlux2:
    autoencoder = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16), latent_channels=8, norm_num_groups=4, layers_per_block=1, sample_size=16,
    )  # fmt: skip
    torch.nn.init.normal_(autoencoder.bn.running_mean, 0, 0.5)
    torch.nn.init.uniform_(autoencoder.bn.running_var, 0.5, 4.0)
    return autoencoder


def _flux2_transformer(*, guidance: bool) -> Flux2Transformer2DModel:
    return Flux2Transformer2DModel(
        in_channels=32, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=24, timestep_guidance_channels=16, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=guidance,
    )  # fmt: skip


def flux2_klein_distilled(folder: Path) -> Path:
    return flux2_klein(folder, distilled=True)


def pixtral_processor() -> Any:
    """The class of FLUX.2-dev's processor. Its module asks for torchvision, which only its part for images uses."""
    with pytest.MonkeyPatch.context() as patch:
        if importlib.util.find_spec("torchvision") is None:
            images = SimpleNamespace(get_resize_output_image_size=None)
            patch.setitem(sys.modules, "transformers.models.pixtral.image_processing_pixtral", images)
        return importlib.import_module("transformers.models.pixtral.processing_pixtral").PixtralProcessor


def flux2_dev(folder: Path) -> Path:
    """``Flux2Pipeline``: three layers of Mistral 3, which reads a system message before the prompt."""
    torch.manual_seed(22)
    tokens = chat_tokenizer(1024)
    tokens.add_special_tokens({"additional_special_tokens": ["[IMG]", "[IMG_BREAK]", "[IMG_END]"], "bos_token": "<s>"})
    first = ("<s>", tokens.convert_tokens_to_ids("<s>"))  # in the template as well; it must come once
    tokens.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[first])
    vocabulary = {"vocab_size": len(tokens), "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    text = {
        "model_type": "mistral", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 30,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "max_position_embeddings": 1024,
    }  # fmt: skip
    vision = {
        "model_type": "pixtral", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 1, "head_dim": 8, "image_size": 32, "patch_size": 4,
    }  # fmt: skip
    config = Mistral3Config(
        text_config=text | vocabulary, vision_config=vision, image_token_index=tokens.convert_tokens_to_ids("[IMG]")
    )
    Flux2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**SHIFTED, time_shift_type="exponential"),
        vae=_flux2_vae(),
        text_encoder=Mistral3ForConditionalGeneration(config),
        tokenizer=pixtral_processor()(
            image_processor=PixtralImageProcessor(), tokenizer=tokens, chat_template=TYPED_CHAT
        ),
        transformer=_flux2_transformer(guidance=True),
    ).save_pretrained(folder, safe_serialization=True)
    return folder


def ovis_image(folder: Path) -> Path:
    """``OvisImagePipeline``, which has no adapter of its own; its latents are packed."""
    torch.manual_seed(21)
    tokens = chat_tokenizer(512)
    OvisImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**SHIFTED),
        vae=flux_vae(),
        text_encoder=Qwen3Model(qwen3(len(tokens))),
        tokenizer=tokens,
        transformer=OvisImageTransformer2DModel(
            in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=32, axes_dims_rope=(4, 4, 8),
        ),
    ).save_pretrained(folder, safe_serialization=True)  # fmt: skip
    return folder
