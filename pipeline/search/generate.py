"""The first half of a round: move the noise of every row, and denoise it into z_0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from noisesmith.pipeline.config import OptimizerConfig
from noisesmith.pipeline.generators import Generator
from noisesmith.pipeline.lazily import torch
from noisesmith.pipeline.noise import check_finite, digest, statistics
from noisesmith.pipeline.optimizers import Proposal, Request, build_optimizer
from noisesmith.pipeline.search.propose import propose, requests_of
from noisesmith.pipeline.search.tasks import ALONE, GenerateTask, ImageRecord, ModelUse, Start

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Generated:
    """What a batch made: per row the new optimizer state ``[1 + K, C, H, W]``, z_0 ``[C, H, W]`` and the record.

    ``paused`` is where probes have stopped, ``[B, 1 + H, C, H, W]``; their z_0 is the predicted one.
    """

    states: list[Tensor]
    latents: Tensor
    records: list[ImageRecord]
    paused: Tensor | None = None


def generate(
    config: OptimizerConfig,
    generator: Generator,
    tasks: Sequence[GenerateTask],
    starts: Sequence[Start[Tensor] | None],
    use: ModelUse = ALONE,
) -> Generated:
    """Propose every row's next noise with the configured method, and denoise it.

    Args:
        tasks: rows at any rounds, all with images of one size and the same sampler steps, of which all begin and end at
            the same ones.
        starts: what each row moves from; ``None`` for a first image.
        use: entered while the model is used. The noises are drawn, chosen and described outside of it.

    Raises:
        FloatingPointError: a z_0 is not finite; the message gives the positions in the batch.
    """
    optimizer = build_optimizer(config)
    generator = _sized(generator, tasks)
    proposals = propose(optimizer, generator, tasks, starts)
    with use:
        requests = requests_of(config, generator, tasks)
        proposals = optimizer.prepare(requests, proposals, generator)
        noise = torch.stack([proposal.state[0] for proposal in proposals])
        paused = None
        if tasks[0].taken:
            latents, evaluations = _finish(generator, requests, tasks, starts)
        elif tasks[0].stop is not None:
            latents, paused, evaluations = _probe(generator, requests, noise, tasks[0].stop)
        else:
            latents, evaluations = optimizer.denoise(requests, noise, generator)
        cut = generator.tokens_cut([request.prompt for request in requests])
    check_finite("z_0", latents)
    records = []
    for proposal, spent, tokens in zip(proposals, evaluations, cut, strict=True):
        records.append(_record(proposal, spent, len(tasks), tokens))
    return Generated([proposal.state for proposal in proposals], latents, records, paused)


def _probe(
    generator: Generator, requests: Sequence[Request], noise: Tensor, stop: int
) -> tuple[Tensor, Tensor, list[float]]:
    """The predicted z_0 after ``stop`` steps, where sampling has paused, and every row's U-Net evaluations."""
    prompts = [request.prompt for request in requests]
    latents, paused = generator.probe(prompts, noise, requests[0].steps, stop)
    return latents, paused, [float(stop)] * len(requests)


def _finish(
    generator: Generator,
    requests: Sequence[Request],
    tasks: Sequence[GenerateTask],
    starts: Sequence[Start[Tensor] | None],
) -> tuple[Tensor, list[float]]:
    """z_0 of probes that go on, and every row's further U-Net evaluations."""
    paused = [start.paused for start in starts if start is not None and start.paused is not None]
    prompts = [request.prompt for request in requests]
    steps, taken = tasks[0].steps, tasks[0].taken
    latents = generator.finish(prompts, torch.stack(paused), steps, taken)
    return latents, [float(steps - taken)] * len(tasks)


def denoise(config: OptimizerConfig, generator: Generator, tasks: Sequence[GenerateTask], noise: Tensor) -> Tensor:
    """z_0 ``[B, C, H, W]`` of given noises, as the configured method denoises them."""
    generator = _sized(generator, tasks)
    requests = requests_of(config, generator, tasks)
    latents, _ = build_optimizer(config).denoise(requests, noise, generator)
    return latents


def _sized(generator: Generator, tasks: Sequence[GenerateTask]) -> Generator:
    """The generator for the size of a batch's images.

    Raises:
        ValueError: they have several. Packed latents of two sizes can have one shape, so that nothing else would fail.
    """
    (resolution, *others) = {task.resolution for task in tasks}
    if others:
        raise ValueError(f"a batch has images of several sizes: {[resolution, *others]}")
    return generator if resolution is None else generator.sized(resolution)


def _record(proposal: Proposal, denoising: float, batch_size: int, tokens_cut: int) -> ImageRecord:
    noise = proposal.state[0]
    return ImageRecord(
        gamma=proposal.gamma,
        index=proposal.index,
        noise=statistics(noise),
        digest=digest(noise),
        batch_size=batch_size,
        evaluations=proposal.evaluations + denoising,
        shape=tuple(noise.shape),
        tokens_cut=tokens_cut,
    )
