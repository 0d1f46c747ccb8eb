"""The built-in models' architectures, in the libraries' own classes, and how they are saved."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, models, pre_tokenizers, processors
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
    PreTrainedTokenizerFast,
)

from noisesmith.pipeline.embedded.grammar import ANIMALS, COLOURS, JOINS, THINGS
from noisesmith.pipeline.embedded.judge import Judge, JudgeConfig
from noisesmith.pipeline.embedded.training.vision_tower import PATCH, see_neighbours

Module = TypeVar("Module", bound=nn.Module)
LATENT_CHANNELS = 16
TEXT_WIDTH = 96
SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")
SCENE_WORDS = ("a", "an", *ANIMALS, *THINGS, *COLOURS, *JOINS)
CHAT_WORDS = (
    "Yes", "No", "yes", "no", "USER", "ASSISTANT", "SYSTEM", ":", "Does", "What", "does", "this", "figure", "show", '"',
    "'", "?", ".", ",", "Please", "answer", "or", "image", "picture", "Is", "there", "in", "the", "Question", "Answer",
)  # fmt: skip
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


def new_text_encoder() -> CLIPTextModel:
    """The caption's encoder: two layers over at most 16 words."""
    tokenizer = text_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=16,
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


def _tokenizer(
    words: Sequence[str], max_length: int, close: bool, extra: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words; with ``close`` texts end in ``</s>``."""
    vocabulary = {word: index for index, word in enumerate((*SPECIALS, *words))}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if close else "<s> $A", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=list(extra),
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
        padding_side="right",
    )


def text_tokenizer() -> PreTrainedTokenizerFast:
    """The diffusion model's tokenizer: words of the grammar between ``<s>`` and ``</s>``, at most 16."""
    return _tokenizer(SCENE_WORDS, 16, close=True)


def chat_tokenizer() -> PreTrainedTokenizerFast:
    """The scorer's tokenizer: words of grammar and question after ``<s>``; case matters ("Yes" is a token)."""
    return _tokenizer((*CHAT_WORDS, *SCENE_WORDS), 512, close=False, extra=("<image>",))


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
    pipe = StableDiffusionPipeline(
        vae=_half(vae, new_vae()),
        unet=_half(unet, new_unet()),
        text_encoder=_half(text, new_text_encoder()),
        tokenizer=text_tokenizer(),
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.vae.register_to_config(scaling_factor=float(vae.config.scaling_factor))
    shutil.rmtree(folder, ignore_errors=True)
    pipe.save_pretrained(folder)
    _declare_float32(folder / "text_encoder")


def save_vlm(folder: Path, vlm: LlavaForConditionalGeneration) -> None:
    """Write a ``LlavaForConditionalGeneration`` folder with its processor."""
    shutil.rmtree(folder, ignore_errors=True)
    _half(vlm, new_vlm()).save_pretrained(folder)
    new_processor().save_pretrained(folder)
    _declare_float32(folder)


def save_judge(folder: Path, judge: Judge) -> None:
    """Write the judge's folder."""
    shutil.rmtree(folder, ignore_errors=True)
    _half(judge, Judge(JudgeConfig())).save_pretrained(folder)
    _declare_float32(folder)


def _half(source: Module, blank: Module) -> Module:
    """``blank`` with the weights of ``source`` in half precision; the source keeps its own."""
    blank.load_state_dict(source.state_dict())
    return blank.to(torch.float16)


def _declare_float32(folder: Path) -> None:
    """Declare float32 in a model's ``config.json``, from which the libraries read the working precision.

    Half precision saves space on disk, but the models work in float32.
    """
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"float16"', '"float32"'))
