"""A scorer's side: decoder and scorer models without weights, and a batch's forward and backward pass through both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from noisesmith.pipeline.cost.hollow import as_loaded, hollow_diffuser, hollow_transformer
from noisesmith.pipeline.cost.measure import Cost, measure
from noisesmith.pipeline.generators import FoundGenerator, LatentSpec
from noisesmith.pipeline.models.locate import ModelSource
from noisesmith.pipeline.scorers import DETECTOR
from noisesmith.pipeline.scorers.openai_server import SERVER

TEXT_TOKENS = 64  # of a question, the prompt in it; an image is hundreds

Vision = dict[str, Tensor]
Forward = Callable[[Vision], Tensor]


def hollow_scorer(source: ModelSource, dtype: str) -> Any:
    """The model of a scorer or judge on the ``meta`` device; an empty one where a server holds it.

    Raises:
        UserError: a JSON file is not here.
    """
    if source.class_name == SERVER:
        return torch.nn.Module()
    if source.class_name in DETECTOR:
        from noisesmith.pipeline.embedded.judge import Judge, JudgeConfig

        with torch.device("meta"):
            return as_loaded(Judge(JudgeConfig.from_dict(source.read_json("config.json"))), torch.float32)
    if source.class_name == "CLIPT5ForConditionalGeneration":
        from noisesmith.pipeline.scorers.clip_flant5 import ClipT5, read_configs

        config, vision, _ = read_configs(source)
        with torch.device("meta"):
            return as_loaded(ClipT5(config, vision), getattr(torch, dtype))
    return hollow_transformer(source, source.class_name, getattr(torch, dtype))


def hollow_decoder(found: FoundGenerator) -> Any:
    """The decoder's VAE on the ``meta`` device, in the type and with the options that scoring gives it.

    Raises:
        UserError: its ``config.json`` is not here.
    """
    from noisesmith.pipeline.generators.decoder import with_options

    vae = hollow_diffuser(found.source, "vae", "AutoencoderKL", getattr(torch, found.config.dtype))
    return with_options(vae, found.config)


def look(source: ModelSource, spec: LatentSpec, batch: int) -> Vision:
    """What the family's own image processor makes of a batch of images of the generator's size.

    Pixel values are on the ``meta`` device, sizes, grids and masks on the CPU. A server is sent the image itself.

    Raises:
        OSError: the processor's JSON files are not here.
    """
    if source.class_name == SERVER:
        return {}
    from transformers import AutoImageProcessor, CLIPImageProcessor

    if source.class_name == "CLIPT5ForConditionalGeneration":
        from noisesmith.pipeline.scorers.clip_flant5 import read_configs

        tower = read_configs(source)[2]
        processor = CLIPImageProcessor.from_pretrained(tower.location, local_files_only=tower.local)
    else:
        where = {"revision": source.revision, "local_files_only": source.local}
        processor = AutoImageProcessor.from_pretrained(source.location, **where)
    made = processor(images=Image.new("RGB", (spec.width, spec.height)), return_tensors="pt")
    batched = {name: value.repeat(batch, *[1] * (value.ndim - 1)) for name, value in made.items()}
    return batched | {"pixel_values": batched["pixel_values"].to("meta")}


def score_cost(
    vae: Any, model: Any, vision: Vision, spec: LatentSpec, batch: int, gradient: bool, text: int = TEXT_TOKENS
) -> Cost:
    """The cost of a batch's scores, and of their gradients where asked for.

    Args:
        vision: of :func:`look`; where it is empty, decoding is all there is.
        text: tokens of each question.

    Raises:
        NotImplementedError, RuntimeError: the model cannot run without numbers.
    """
    forward = FORWARDS.get(type(model).__name__, _image_in_text)(model, vision, batch, text) if vision else None

    def work() -> None:
        with torch.set_grad_enabled(gradient):
            latents = torch.empty(batch, *spec.shape, dtype=vae.dtype, device="meta").requires_grad_(gradient)
            images = (vae.decode(latents, return_dict=False)[0] / 2 + 0.5).clamp(0, 1)
            if forward is None:
                return
            # The preprocessing keeps next to nothing for its gradient, and its work is slight: a mean stands for it.
            logits = forward(vision | {"pixel_values": images.mean().to(model.dtype) + vision["pixel_values"]})
            score = torch.log_softmax(logits.float(), dim=-1)[..., 0].sum()
            if gradient:
                torch.autograd.grad(score, latents)

    return measure(work)


def _text(batch: int, length: int) -> tuple[Tensor, Tensor]:
    """Token ids and mask ``[batch, length]``; rows differ in length, as prompts do, so the mask is not all ones."""
    mask = torch.ones(batch, length, dtype=torch.long)
    mask[: batch - 1, 0] = 0
    return torch.ones(batch, length, dtype=torch.long), mask


def _clip_t5(model: Any, vision: Vision, batch: int, text: int) -> Forward:
    ids, mask = _text(batch, text)

    def forward(vision: Vision) -> Tensor:
        features = model.image_features(vision["pixel_values"])
        logits: Tensor = model(
            inputs_embeds=torch.cat([features, model.get_input_embeddings()(ids)], 1),
            attention_mask=torch.cat([mask, mask.new_ones(features.shape[:2])], 1),
            decoder_input_ids=ids[:, :1],
            use_cache=False,
        ).logits
        return logits

    return forward


def _instructblip(model: Any, vision: Vision, batch: int, text: int) -> Forward:
    config = model.config
    ids, mask = _text(batch, text + config.num_query_tokens)
    ids[:, text:] = config.image_token_id
    question, question_mask = _text(batch, text)
    answer = {"logits_to_keep": 1} if config.use_decoder_only_language_model else {"decoder_input_ids": ids[:, :1]}
    questions = {"qformer_input_ids": question, "qformer_attention_mask": question_mask}
    inputs = {"input_ids": ids, "attention_mask": mask, "use_cache": False} | questions | answer
    return lambda vision: model(**inputs, **vision).logits


def _contrastive(model: Any, vision: Vision, batch: int, text: int) -> Forward:
    ids, mask = _text(batch, model.config.text_config.max_position_embeddings)
    return lambda vision: model(input_ids=ids, attention_mask=mask, **vision).logits_per_image


def _image_in_text(model: Any, vision: Vision, batch: int, text: int) -> Forward:
    """LLaVA and the chat families: as many places in the text as the image has features."""
    features: list[Tensor] = []
    measure(lambda: features.extend(model.get_image_features(**vision).pooler_output))
    places = sum(feature.shape[:-1].numel() for feature in features) // batch
    ids, mask = _text(batch, text + places)
    ids[:, text:] = model.config.image_token_id
    kinds = {"mm_token_type_ids": (ids == model.config.image_token_id).int()} if "image_grid_thw" in vision else {}
    inputs = {"input_ids": ids, "attention_mask": mask, "use_cache": False, "logits_to_keep": 1} | kinds
    return lambda vision: model(**inputs, **vision).logits


FORWARDS: dict[str, Callable[[Any, Vision, int, int], Forward]] = {
    "ClipT5": _clip_t5,
    "InstructBlipForConditionalGeneration": _instructblip,
    "CLIPModel": _contrastive,
    "SiglipModel": _contrastive,
    "Siglip2Model": _contrastive,
}
