"""Tiny diffusion models of the larger families: random weights, the true classes, saved as users' checkpoints are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AsymmetricAutoencoderKL,
    AutoencoderKL,
    AutoencoderTiny,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from tests import tiny

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
TOKENS = 16


def clip(kind: type, projection: int, act: str) -> Any:
    return kind(
        CLIPTextConfig(
            vocab_size=len(tiny.tokenizer(TOKENS, template=True)), hidden_size=32, intermediate_size=37,
            num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=TOKENS, pad_token_id=0,
            bos_token_id=1, eos_token_id=2, projection_dim=projection, hidden_act=act,
        )
    )  # fmt: skip


def vae(**config: Any) -> AutoencoderKL:
    channels = config.setdefault("block_out_channels", (8, 16))
    return AutoencoderKL(
        in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels), norm_num_groups=4, sample_size=16,
        **({"latent_channels": 4} | config),
    )  # fmt: skip


def vae_without_statistics(kind: str) -> AutoencoderTiny | AsymmetricAutoencoderKL:
    """A VAE of a class whose config names no mean and deviation of its latents."""
    torch.manual_seed(9)
    if kind == "tiny":
        made = AutoencoderTiny(
            encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1), scaling_factor=0.7,
        )  # fmt: skip
    else:
        made = AsymmetricAutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2, down_block_out_channels=(8, 16), layers_per_down_block=1,
            up_block_types=("UpDecoderBlock2D",) * 2, up_block_out_channels=(8, 16), layers_per_up_block=1,
            norm_num_groups=4, scaling_factor=0.7,
        )  # fmt: skip
    return made.eval()


def stable_diffusion_2(folder: Path) -> Path:
    """``StableDiffusionPipeline`` that predicts v, as 2.1 does at 768 pixels."""
    return tiny.stable_diffusion(folder, prediction_type="v_prediction")


def stable_diffusion_xl(folder: Path, **unet: Any) -> Path:
    """``StableDiffusionXLPipeline``: two encoders, time ids, a VAE that overflows in float16; Euler's schedule."""
    torch.manual_seed(2)
    StableDiffusionXLPipeline(
        vae=vae(force_upcast=True, scaling_factor=0.13025),
        text_encoder=clip(CLIPTextModel, 32, "quick_gelu"),
        text_encoder_2=clip(CLIPTextModelWithProjection, 32, "gelu"),
        tokenizer=tiny.tokenizer(TOKENS, template=True),
        tokenizer_2=tiny.tokenizer(TOKENS, template=True),
        unet=UNet2DConditionModel(
            sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(16, 32),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=64, attention_head_dim=(2, 4),
            norm_num_groups=8, use_linear_projection=True, addition_embed_type="text_time",
            addition_time_embed_dim=8, transformer_layers_per_block=(1, 2),
            projection_class_embeddings_input_dim=6 * 8 + 32, **unet,
        ),
        scheduler=EulerDiscreteScheduler(**SCHEDULE, steps_offset=1, timestep_spacing="leading"),
    ).save_pretrained(folder, safe_serialization=True)  # fmt: skip
    return folder


def stable_diffusion_3(folder: Path, *, t5: bool = True, **scheduler: Any) -> Path:
    """``StableDiffusion3Pipeline``: flow matching, three encoders or two, a VAE with a shift."""
    torch.manual_seed(3)
    tokens = tiny.tokenizer(TOKENS, template=True)
    encoder = T5EncoderModel(
        T5Config(
            vocab_size=len(tokens), d_model=96, d_kv=8, d_ff=37, num_layers=2, num_heads=4, pad_token_id=0,
            eos_token_id=2, decoder_start_token_id=0,
        )
    )  # fmt: skip
    StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=8, patch_size=2, in_channels=16, num_layers=2, attention_head_dim=8, num_attention_heads=4,
            joint_attention_dim=96, caption_projection_dim=32, pooled_projection_dim=64, out_channels=16,
            pos_embed_max_size=12,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(**({"shift": 3.0} | scheduler)),
        vae=vae(latent_channels=16, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False,
                 use_post_quant_conv=False),
        text_encoder=clip(CLIPTextModelWithProjection, 32, "quick_gelu"),
        tokenizer=tokens,
        text_encoder_2=clip(CLIPTextModelWithProjection, 32, "gelu"),
        tokenizer_2=tiny.tokenizer(TOKENS, template=True),
        text_encoder_3=encoder if t5 else None,
        tokenizer_3=tiny.tokenizer(TOKENS, template=True) if t5 else None,
    ).save_pretrained(folder, safe_serialization=True)  # fmt: skip
    return folder


def single_file(folder: Path, target: Path) -> Path:
    """The weights of a tiny Stable Diffusion 1 as one file, under the names of the original (CompVis) code."""
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    tensors = {f"model.diffusion_model.{_unet_name(k)}": v for k, v in pipe.unet.state_dict().items()}
    for name, value in pipe.vae.state_dict().items():
        square = "attentions" in name and value.ndim == 2  # 1×1 convolutions there
        tensors[f"first_stage_model.{_vae_name(name)}"] = value[:, :, None, None] if square else value
    for name, value in pipe.text_encoder.state_dict().items():
        tensors[f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"] = value
    save_file({name: value.contiguous().clone() for name, value in tensors.items()}, target)
    return target


def _unet_name(name: str) -> str:
    for ours, original in {
        "conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0", "conv_norm_out": "out.0",
        "time_embedding.linear_2": "time_embed.2", "conv_out": "out.2", "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1", "mid_block.resnets.1": "middle_block.2",
        "down_blocks.0.resnets.0": "input_blocks.1.0", "down_blocks.0.attentions.0": "input_blocks.1.1",
        "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op", "down_blocks.1.resnets.0": "input_blocks.3.0",
        "up_blocks.0.resnets.0": "output_blocks.0.0", "up_blocks.0.resnets.1": "output_blocks.1.0",
        "up_blocks.0.upsamplers.0.conv": "output_blocks.1.1.conv", "up_blocks.1.resnets.0": "output_blocks.2.0",
        "up_blocks.1.attentions.0": "output_blocks.2.1", "up_blocks.1.resnets.1": "output_blocks.3.0",
        "up_blocks.1.attentions.1": "output_blocks.3.1",
    }.items():  # fmt: skip
        if name.startswith(f"{ours}."):
            name = original + name.removeprefix(ours)
            break
    if "transformer_blocks" not in name:
        for ours, original in {
            ".norm1.": ".in_layers.0.", ".conv1.": ".in_layers.2.", ".time_emb_proj.": ".emb_layers.1.",
            ".norm2.": ".out_layers.0.", ".conv2.": ".out_layers.3.", ".conv_shortcut.": ".skip_connection.",
        }.items():  # fmt: skip
            name = name.replace(ours, original)
    return name


def _vae_name(name: str) -> str:
    for ours, original in {
        "down_blocks.": "down.", "up_blocks.0.": "up.1.", "up_blocks.1.": "up.0.", ".resnets.": ".block.",
        "downsamplers.0": "downsample", "upsamplers.0": "upsample", "mid_block.block.0": "mid.block_1",
        "mid_block.block.1": "mid.block_2", "mid_block.attentions.0": "mid.attn_1", "conv_norm_out": "norm_out",
        "group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out",
        "conv_shortcut": "nin_shortcut",
    }.items():  # fmt: skip
        name = name.replace(ours, original)
    return name


FAMILIES: dict[str, Callable[[Path], Path]] = {
    "sd1": tiny.stable_diffusion,
    "sd2": stable_diffusion_2,
    "sdxl": stable_diffusion_xl,
    "sd3": stable_diffusion_3,
}
