"""The built-in models' architectures, in the libraries' own classes, and how they are saved."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TypeVar

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from noisesmith.pipeline.embedded.judge import Judge, JudgeConfig
from noisesmith.pipeline.embedded.training.vision_tower import PATCH, see_neighbours
from noisesmith.pipeline.embedded.training.vocabulary import (
    SCENE_WORDS,
    SPECIALS,
    TEXT_LENGTH,
    chat_tokenizer,
    text_tokenizer,
    write_byte_pairs,
)

Module = TypeVar("Module", bound=nn.Module)
LATENT_CHANNELS = 16
TEXT_WIDTH = 96
EMBEDDING = "embeddings.token_embedding.weight"  # of the text encoder
QUESTION = 'Does this figure show "{}"? Please answer yes or no.'
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() }}: "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}"
    "{% endif %}{% endfor %}{% if not loop.last %} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


def new_vae() -> AutoencoderKL:
    """The autoencoder: 64×64 pixels ↔ latents [16, 8, 8]."""
    channels = (16, 32, 64, 96)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=1,  # with more groups flat colours fade: two channels per group leave one number for a hue
        sample_size=64,
        mid_block_add_attention=False,
    )


def new_unet() -> UNet2DConditionModel:
    """The denoiser: v-prediction on latents [16, 8, 8], with cross-attention to the caption at both resolutions."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(64, 128),
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def new_text_encoder(vocabulary: int = len(SPECIALS) + len(SCENE_WORDS)) -> CLIPTextModel:
    """The caption's encoder: two layers over at most 16 words.

    Args:
        vocabulary: rows of its embedding; in training the words of the grammar only.
    """
    tokenizer = text_tokenizer()
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TEXT_LENGTH,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return CLIPTextModel(config)


def new_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule, with v-prediction as in Stable Diffusion 2."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )


def new_vlm() -> LlavaForConditionalGeneration:
    """The scorer: a CLIP vision tower of 64 patches and a Llama of three layers."""
    tokenizer = chat_tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=64,
        patch_size=PATCH,
        projection_dim=128,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=288,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=64,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    vlm = LlavaForConditionalGeneration(config)
    see_neighbours(vlm.model.vision_tower)
    return vlm


def new_processor() -> LlavaProcessor:
    """The scorer's processor: CLIP's image preprocessing at 64 pixels, and the chat tokenizer."""
    images = CLIPImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    return LlavaProcessor(
        images,
        chat_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        num_additional_image_tokens=1,
    )


def save_sd(folder: Path, vae: AutoencoderKL, unet: UNet2DConditionModel, text: CLIPTextModel) -> None:
    """Write a ``StableDiffusionPipeline`` folder, weights in half precision, configured to load as float32."""
    tokenizer = text_tokenizer()
    pipe = StableDiffusionPipeline(
        vae=half(vae, new_vae()),
        unet=half(unet, new_unet()),
        text_encoder=half(with_pieces(text), new_text_encoder(len(tokenizer))),
        tokenizer=tokenizer,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.vae.register_to_config(scaling_factor=float(vae.config.scaling_factor))
    shutil.rmtree(folder, ignore_errors=True)
    pipe.save_pretrained(folder)
    declare_float32(folder / "text_encoder")
    write_byte_pairs(folder / "tokenizer")


def with_pieces(text: CLIPTextModel) -> CLIPTextModel:
    """The text encoder with a row of its embedding for every piece of the tokenizer, each as that of ``<unk>``."""
    known = text.get_input_embeddings().weight.detach()
    unknown = known[SPECIALS.index("<unk>")]
    whole = new_text_encoder(len(text_tokenizer()))
    state = text.state_dict()
    pieces = unknown.expand(whole.config.vocab_size - len(known), -1)
    state[EMBEDDING] = torch.cat([known, pieces])
    whole.load_state_dict(state)
    return whole


def without_pieces(text: CLIPTextModel) -> CLIPTextModel:
    """The text encoder with rows of its embedding for the words of the grammar only, as it is trained."""
    words = new_text_encoder()
    state = text.state_dict()
    state[EMBEDDING] = state[EMBEDDING][: words.config.vocab_size]
    words.load_state_dict(state)
    return words


def save_vlm(folder: Path, vlm: LlavaForConditionalGeneration) -> None:
    """Write a ``LlavaForConditionalGeneration`` folder with its processor."""
    shutil.rmtree(folder, ignore_errors=True)
    half(vlm, new_vlm()).save_pretrained(folder)
    new_processor().save_pretrained(folder)
    declare_float32(folder)


def save_judge(folder: Path, judge: Judge) -> None:
    """Write the judge's folder."""
    shutil.rmtree(folder, ignore_errors=True)
    half(judge, Judge(JudgeConfig(trunk=judge.config.trunk, threshold=judge.config.threshold))).save_pretrained(folder)
    declare_float32(folder)


def half(source: Module, blank: Module) -> Module:
    """``blank`` with the weights of ``source`` in half precision; the source keeps its own."""
    blank.load_state_dict(source.state_dict())
    return blank.to(torch.float16)


def declare_float32(folder: Path) -> None:
    """Declare float32 in a model's ``config.json``, from which the libraries read the working precision.

    Half precision saves space on disk, but the models work in float32.
    """
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"float16"', '"float32"'))
