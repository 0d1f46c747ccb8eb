"""Published architectures, each shrunk to a tiny one of the same classes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from noisesmith.pipeline.bench.gpu import architectures
from noisesmith.pipeline.bench.gpu.architectures import CLIP_FLANT5_XL, LLAVA, SD15, SD35, PipelineArchitecture

_VAE: dict[str, Any] = {
    "block_out_channels": [8, 16], "layers_per_block": 1, "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2, "norm_num_groups": 4,
}  # fmt: skip
_UNET = {
    "sample_size": 8, "block_out_channels": [16, 32], "layers_per_block": 1, "cross_attention_dim": 32,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "attention_head_dim": 4, "norm_num_groups": 8,
}  # fmt: skip
_TRANSFORMER = {
    "sample_size": 8, "num_layers": 2, "num_attention_heads": 4, "attention_head_dim": 8, "caption_projection_dim": 32,
    "joint_attention_dim": 32, "pooled_projection_dim": 64, "pos_embed_max_size": 8, "dual_attention_layers": [0],
}  # fmt: skip
_CLIP = {
    "vocab_size": 40, "hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4,
    "projection_dim": 32,
}  # fmt: skip
_T5 = {"vocab_size": 40, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
_VISION = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 8, "projection_dim": 16,
}  # fmt: skip
_SEES = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
_LANGUAGE = {
    "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4,
}  # fmt: skip
_PARTS = {
    "unet": _UNET, "transformer": _TRANSFORMER, "vae": _VAE, "text_encoder": _CLIP, "text_encoder_2": _CLIP,
    "text_encoder_3": _T5,
}  # fmt: skip


def _shrunk(architecture: PipelineArchitecture) -> PipelineArchitecture:
    parts = {name: replace(part, config=part.config | _PARTS[name]) for name, part in architecture.parts.items()}
    return replace(architecture, parts=parts)


def shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the published models be tiny ones for one test."""
    for name in (SD15, SD35):
        monkeypatch.setitem(architectures.PIPELINES, name, _shrunk(architectures.PIPELINES[name]))
    llava, flant5 = architectures.SCORERS[LLAVA], architectures.SCORERS[CLIP_FLANT5_XL]
    config = llava.config | {
        "image_token_index": 30,
        "text_config": llava.config["text_config"] | _LANGUAGE,
        "vision_config": llava.config["vision_config"] | _VISION,
    }
    sees = llava.image_processor | _SEES
    monkeypatch.setitem(architectures.SCORERS, LLAVA, replace(llava, config=config, image_processor=sees))
    assert flant5.tower is not None
    tiny = replace(flant5, config=flant5.config | _T5, image_processor=sees, tower=flant5.tower | _VISION)
    monkeypatch.setitem(architectures.SCORERS, CLIP_FLANT5_XL, tiny)
