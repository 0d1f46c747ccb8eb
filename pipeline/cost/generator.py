"""A generator's side: what a batch of images takes of the pipeline's models, all without weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from noisesmith.pipeline.cost.measure import Cost, measure
from noisesmith.pipeline.generators import FoundGenerator
from noisesmith.pipeline.generators.rehearsal import Rehearsal
from noisesmith.pipeline.models.libraries import Model

PROMPT = " ".join(["word"] * 64)  # what a prompt counts as, where its length counts


def generate_cost(found: FoundGenerator, parts: Mapping[str, Model], batch: int, prompt: str = PROMPT) -> Cost:
    """The cost of every pass that the pipeline makes of its models for the first images of a batch of rows.

    Where the pipeline gives all prompts embeddings of one length, those of a row are kept for its further images.

    Args:
        parts: all models, without weights, by folder. They are used up.
        prompt: that of every row, for a pipeline that does not pad prompts to a fixed length.

    Raises:
        NotImplementedError, RuntimeError: a model cannot run without numbers.
        UserError: a tokenizer cannot be loaded.
    """
    rehearsal = Rehearsal(found, parts)
    noise = torch.zeros(batch, *found.spec.shape)
    rehearsal.follow([prompt] * batch, found.config.steps, found.spec, noise)
    flops = 0
    once = 0
    peak_bytes = 0
    with torch.no_grad():
        for one in rehearsal.passes.values():
            cost = measure(one.work)
            flops += one.count * cost.flops
            if found.family.join_text is not None and one.model != found.family.denoiser:
                once += one.count * cost.flops
            peak_bytes = max(peak_bytes, cost.peak_bytes)
    return Cost(flops, peak_bytes, once)
