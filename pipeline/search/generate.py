"""The first half of a round: move the noise of every row, and denoise it into z_0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from noisesmith.pipeline.config import OptimizerConfig
from noisesmith.pipeline.generators import Generator
from noisesmith.pipeline.noise import check_finite, digest, statistics
from noisesmith.pipeline.optimizers import Proposal, build_optimizer
from noisesmith.pipeline.search.propose import propose, requests_of
from noisesmith.pipeline.search.tasks import ALONE, GenerateTask, ImageRecord, ModelUse, Start


@dataclass(frozen=True)
class Generated:
    """What a batch made: per row the new optimizer state ``[1 + K, C, H, W]``, z_0 ``[C, H, W]`` and the record."""

    states: list[Tensor]
    latents: Tensor
    records: list[ImageRecord]


def generate(
    config: OptimizerConfig,
    generator: Generator,
    tasks: Sequence[GenerateTask],
    starts: Sequence[Start[Tensor] | None],
    use: ModelUse = ALONE,
) -> Generated:
    """Propose every row's next noise with the configured method, and denoise it.

    Args:
        tasks: rows at any rounds, all with the same number of sampler steps.
        starts: what each row moves from; ``None`` for a first image.
        use: entered while the model is used. The noises are drawn, chosen and described outside of it.

    Raises:
        FloatingPointError: a z_0 is not finite; the message gives the positions in the batch.
    """
    optimizer = build_optimizer(config)
    proposals = propose(optimizer, generator, tasks, starts)
    with use:
        requests = requests_of(config, generator, tasks)
        proposals = optimizer.prepare(requests, proposals, generator)
        noise = torch.stack([proposal.state[0] for proposal in proposals])
        latents, evaluations = optimizer.denoise(requests, noise, generator)
        cut = generator.tokens_cut([request.prompt for request in requests])
    check_finite("z_0", latents)
    records = []
    for proposal, spent, tokens in zip(proposals, evaluations, cut, strict=True):
        records.append(_record(proposal, spent, len(tasks), tokens))
    return Generated([proposal.state for proposal in proposals], latents, records)


def denoise(config: OptimizerConfig, generator: Generator, tasks: Sequence[GenerateTask], noise: Tensor) -> Tensor:
    """z_0 ``[B, C, H, W]`` of given noises, as the configured method denoises them."""
    requests = requests_of(config, generator, tasks)
    latents, _ = build_optimizer(config).denoise(requests, noise, generator)
    return latents


def _record(proposal: Proposal, denoising: float, batch_size: int, tokens_cut: int) -> ImageRecord:
    noise = proposal.state[0]
    return ImageRecord(
        gamma=proposal.gamma,
        index=proposal.index,
        noise=statistics(noise),
        digest=digest(noise),
        batch_size=batch_size,
        evaluations=proposal.evaluations + denoising,
        tokens_cut=tokens_cut,
    )
