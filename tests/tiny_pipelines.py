"""Tiny pipelines of the newer families: random weights, the true classes, saved as users' checkpoints are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderDC,
    AutoencoderKLQwenImage,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    Krea2Pipeline,
    Krea2Transformer2DModel,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaSprintPipeline,
    SanaTransformer2DModel,
    SCMScheduler,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Model,
    Qwen3VLConfig,
    Qwen3VLModel,
    UMT5Config,
    UMT5EncoderModel,
)

from tests import tiny
from tests.tiny_flux import chroma, flux, flux2_dev, flux2_klein, flux2_klein_distilled, flux_dev, ovis_image
from tests.tiny_generators import TOKENS, vae
from tests.tiny_parts import SHIFTED, chat_tokenizer, flux_vae, gemma2, qwen3, t5


def z_image(folder: Path) -> Path:
    """``ZImagePipeline``: a single-stream transformer that takes lists of prompts of their own lengths."""
    torch.manual_seed(12)
    tokens = chat_tokenizer(512)
    transformer = ZImageTransformer2DModel(
        in_channels=16, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=32,
        axes_dims=[4, 4, 8], axes_lens=[600, 64, 64],
    )  # fmt: skip
    for parameter in (transformer.x_pad_token, transformer.cap_pad_token):
        torch.nn.init.normal_(parameter, 0, 0.02)
    ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=flux_vae(),
        text_encoder=Qwen3Model(qwen3(len(tokens))),
        tokenizer=tokens,
        transformer=transformer,
    ).save_pretrained(folder, safe_serialization=True)  # fmt: skip
    return folder


def _qwen_image_vae() -> AutoencoderKLQwenImage:
    statistics = torch.linspace(0.4, 3.1, 16)
    return AutoencoderKLQwenImage(
        base_dim=8, z_dim=16, dim_mult=[1, 2], num_res_blocks=1, temperal_downsample=[True],
        latents_mean=(statistics - 1).tolist(), latents_std=statistics.tolist(),
    )  # fmt: skip


def _qwen_text(vocabulary: int) -> dict[str, Any]:
    """The language model of a text encoder of the Qwen-VL families."""
    return {
        "vocab_size": vocabulary, "hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1000000.0},
    }  # fmt: skip


_QWEN_VISION = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32}


def qwen_image(folder: Path) -> Path:
    """``QwenImagePipeline``: packed latents of a video VAE with a mean and a deviation per channel, true guidance."""
    torch.manual_seed(13)
    tokens = chat_tokenizer(1024)
    text, vision = _qwen_text(len(tokens)), _QWEN_VISION | {"fullatt_block_indexes": [0]}
    QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**SHIFTED, time_shift_type="exponential"),
        vae=_qwen_image_vae(),
        text_encoder=Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision)),
        tokenizer=tokens,
        transformer=QwenImageTransformer2DModel(
            in_channels=64, out_channels=16, num_layers=1, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=32, axes_dims_rope=(4, 4, 8),
        ),
    ).save_pretrained(folder, safe_serialization=True)  # fmt: skip
    return folder


def sana(folder: Path, *, sprint: bool = False) -> Path:
    """``SanaPipeline``: a deep-compression VAE, Gemma, and a solver of flows as its own sampler; or SANA-Sprint."""
    torch.manual_seed(14)
    tokens = tiny.tokenizer(512, template=True)
    channels = (8,) * 6
    autoencoder = AutoencoderDC(
        latent_channels=8, attention_head_dim=4, encoder_block_out_channels=channels,
        decoder_block_out_channels=channels, encoder_layers_per_block=(1,) * 6, decoder_layers_per_block=(1,) * 6,
        encoder_qkv_multiscales=((),) * 6, decoder_qkv_multiscales=((),) * 6, scaling_factor=0.41407,
        encoder_block_types="ResBlock", decoder_block_types="ResBlock",
    )  # fmt: skip
    transformer = SanaTransformer2DModel(
        in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=8, num_layers=1,
        num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=32,
        sample_size=4, guidance_embeds=sprint,
    )  # fmt: skip
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    pipeline_class = SanaSprintPipeline if sprint else SanaPipeline
    pipeline_class(
        tokenizer=tokens, text_encoder=gemma2(len(tokens)), vae=autoencoder, transformer=transformer,
        scheduler=SCMScheduler() if sprint else DPMSolverMultistepScheduler(**flow),
    ).save_pretrained(folder, safe_serialization=True)  # fmt: skip
    return folder


def sana_sprint(folder: Path) -> Path:
    return sana(folder, sprint=True)


def _pixart(folder: Path, pipeline_class: type[Any], seed: int, scaling_factor: float) -> Path:
    """A pipeline of PixArt: it predicts the noise and a variance that the pipeline drops; T5 alone."""
    torch.manual_seed(seed)
    tokens = tiny.tokenizer(TOKENS, template=True)
    pipeline_class(
        tokenizer=tokens,
        text_encoder=t5(len(tokens)),
        vae=vae(scaling_factor=scaling_factor),
        transformer=PixArtTransformer2DModel(
            num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=1,
            cross_attention_dim=16, sample_size=8, patch_size=2, caption_channels=32, use_additional_conditions=False,
            norm_type="ada_norm_single",
        ),
        scheduler=DPMSolverMultistepScheduler(beta_schedule="linear", beta_start=0.0001, beta_end=0.02),
    ).save_pretrained(folder, safe_serialization=True)  # fmt: skip
    return folder


def pixart_sigma(folder: Path) -> Path:
    """``PixArtSigmaPipeline``."""
    return _pixart(folder, PixArtSigmaPipeline, 15, 0.13025)


def pixart_alpha(folder: Path) -> Path:
    """``PixArtAlphaPipeline``, which has no adapter of its own."""
    return _pixart(folder, PixArtAlphaPipeline, 19, 0.18215)


def lumina2(folder: Path) -> Path:
    """``Lumina2Pipeline``: Gemma after a system prompt, guidance that keeps the prediction's length."""
    torch.manual_seed(16)
    tokens = tiny.tokenizer(512, template=True)
    Lumina2Pipeline(
        transformer=Lumina2Transformer2DModel(
            sample_size=8, in_channels=16, hidden_size=24, num_layers=1, num_refiner_layers=1, num_attention_heads=2,
            num_kv_heads=1, multiple_of=8, axes_dim_rope=(4, 4, 4), axes_lens=(300, 64, 64), cap_feat_dim=32,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
        vae=flux_vae(block_out_channels=(8,) * 4),  # the pipeline takes it for granted that an image is 8 times larger
        text_encoder=gemma2(len(tokens)),
        tokenizer=tokens,
    ).save_pretrained(folder, safe_serialization=True)  # fmt: skip
    return folder


def aura_flow(folder: Path) -> Path:
    """``AuraFlowPipeline``, which has no adapter of its own."""
    torch.manual_seed(20)
    tokens = tiny.tokenizer(TOKENS, template=True)
    AuraFlowPipeline(
        tokenizer=tokens,
        text_encoder=UMT5EncoderModel(
            UMT5Config(vocab_size=len(tokens), d_model=32, d_kv=8, d_ff=37, num_layers=1, num_heads=4)
        ),
        vae=vae(scaling_factor=0.13025),
        transformer=AuraFlowTransformer2DModel(
            sample_size=8, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=1, attention_head_dim=8,
            num_attention_heads=4, joint_attention_dim=32, caption_projection_dim=32, pos_embed_max_size=1024,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
    ).save_pretrained(folder, safe_serialization=True)  # fmt: skip
    return folder


def krea2(folder: Path) -> Path:
    """``Krea2Pipeline``, which has no adapter of its own: it guides above 0, and names the layers that it reads."""
    torch.manual_seed(22)
    tokens = chat_tokenizer(1024)
    text = _qwen_text(len(tokens)) | {"head_dim": 8}
    vision = _QWEN_VISION | {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
    Krea2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**SHIFTED, time_shift_type="exponential"),
        vae=_qwen_image_vae(),
        text_encoder=Qwen3VLModel(Qwen3VLConfig(text_config=text, vision_config=vision)),
        tokenizer=tokens,
        transformer=Krea2Transformer2DModel(
            in_channels=64, num_layers=1, attention_head_dim=16, num_attention_heads=2, num_key_value_heads=1,
            intermediate_size=32, timestep_embed_dim=16, text_hidden_dim=32, num_text_layers=2,
            text_num_attention_heads=2, text_num_key_value_heads=2, text_intermediate_size=32,
            num_layerwise_text_blocks=1, num_refiner_text_blocks=1, axes_dims_rope=(4, 4, 8),
        ),
        text_encoder_select_layers=(0, 2),
    ).save_pretrained(folder, safe_serialization=True)  # fmt: skip
    return folder


@dataclass(frozen=True)
class TinyPipeline:
    """A builder, the config fields that the family needs, and what its pipeline is called with for the same images."""

    build: Callable[[Path], Path]
    options: Mapping[str, Any]
    call: Mapping[str, Any] = field(default_factory=dict)


FLOW = {"scheduler": "flow_euler"}
PIPELINES = {
    "flux-schnell": TinyPipeline(flux, {"scheduler": "flow_euler", "guidance_scale": 0.0}, {"guidance_scale": 0.0}),
    "flux-dev": TinyPipeline(flux_dev, {"scheduler": "flow_euler", "guidance_scale": 3.5}, {"guidance_scale": 3.5}),
    "z-image": TinyPipeline(z_image, {"scheduler": "flow_euler", "guidance_scale": 4.0}, {"guidance_scale": 4.0}),
    "z-image-turbo": TinyPipeline(z_image, {"scheduler": "flow_euler", "guidance_scale": 0.0}, {"guidance_scale": 0.0}),
    "qwen-image": TinyPipeline(
        qwen_image,
        {"scheduler": "flow_euler", "guidance_scale": 4.0},
        {"true_cfg_scale": 4.0, "negative_prompt": [" ", " "]},
    ),
    "sana": TinyPipeline(
        sana,
        {"scheduler": "dpmsolver++", "guidance_scale": 4.5},
        {"guidance_scale": 4.5, "use_resolution_binning": False},
    ),
    "sana-sprint": TinyPipeline(
        sana_sprint,
        {"scheduler": "scm", "guidance_scale": 4.5, "steps": 1},
        {"guidance_scale": 4.5, "use_resolution_binning": False, "intermediate_timesteps": None},
    ),
    "pixart-sigma": TinyPipeline(
        pixart_sigma,
        {"scheduler": "dpmsolver++", "guidance_scale": 4.5},
        {"guidance_scale": 4.5, "use_resolution_binning": False, "clean_caption": False},
    ),
    "lumina2": TinyPipeline(lumina2, FLOW | {"guidance_scale": 4.0}, {"guidance_scale": 4.0}),
    "chroma": TinyPipeline(chroma, FLOW | {"guidance_scale": 4.0}, {"guidance_scale": 4.0}),
    "flux2-dev": TinyPipeline(flux2_dev, FLOW | {"guidance_scale": 4.0}, {"guidance_scale": 4.0}),
    "flux2-klein": TinyPipeline(flux2_klein_distilled, FLOW | {"guidance_scale": 1.0}, {"guidance_scale": 1.0}),
    "flux2-klein-base": TinyPipeline(flux2_klein, FLOW | {"guidance_scale": 4.0}, {"guidance_scale": 4.0}),
}
WITHOUT_ADAPTER = {
    "pixart-alpha": TinyPipeline(
        pixart_alpha,
        {"scheduler": "dpmsolver++", "guidance_scale": 4.5},
        {"guidance_scale": 4.5, "use_resolution_binning": False, "clean_caption": False},
    ),
    "aura-flow": TinyPipeline(aura_flow, FLOW | {"guidance_scale": 3.5}, {"guidance_scale": 3.5}),
    "ovis-image": TinyPipeline(ovis_image, FLOW | {"guidance_scale": 5.0}, {"guidance_scale": 5.0}),
    "krea2": TinyPipeline(krea2, FLOW | {"guidance_scale": 4.5}, {"guidance_scale": 4.5}),
}
EVERY = PIPELINES | WITHOUT_ADAPTER
# Without those that run the classes of another one with other options.
ONE_OF_EACH = [name for name in EVERY if name not in ("flux-schnell", "z-image-turbo", "flux2-klein-base")]
