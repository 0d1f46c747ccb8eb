"""One turn of many rows: their noises from the search method, their z_0 from the diffusion model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.config import RunConfig
from pipeline.generators import Generator, load_generator
from pipeline.noise import digest, statistics
from pipeline.optimizers import Feedback, Proposal, build_optimizer
from pipeline.search import GenerateTask, Step


@dataclass(frozen=True)
class Turned:
    """What a batch of turns made: each row's memory ``[1 + K, C, H, W]``, z_T first, its z_0 ``[C, H, W]`` and step."""

    memories: list[Tensor]
    latents: Tensor
    steps: list[Step]


class Rounds:
    """A run's generator and search method, loaded onto ``device``."""

    def __init__(self, config: RunConfig, device: str) -> None:
        self.generator: Generator = load_generator(config.generators, device)
        self._optimizer = build_optimizer(config.optimizer)

    def turn(self, tasks: Sequence[GenerateTask], inputs: Sequence[tuple[Tensor, Tensor | None] | None]) -> Turned:
        """Take every row one turn further.

        Args:
            tasks: rows at any rounds, all with the same number of sampler steps.
            inputs: for each task the memory it starts from and ∂s/∂z_0 there, or ``None`` in round 0.
        """
        proposals = [self._propose(task, given) for task, given in zip(tasks, inputs, strict=True)]
        noise = torch.stack([proposal.memory[0] for proposal in proposals])
        latents, evaluations = self.denoise(tasks, noise)
        steps = [
            Step(p.gamma, p.index, statistics(p.memory[0]), digest(p.memory[0]), len(tasks), spent)
            for p, spent in zip(proposals, evaluations, strict=True)
        ]
        return Turned([proposal.memory for proposal in proposals], latents, steps)

    def denoise(self, tasks: Sequence[GenerateTask], noise: Tensor) -> tuple[Tensor, list[float]]:
        """z_0 ``[B, C, H, W]`` of noises, and the U-Net evaluations each row took."""
        (steps,) = {task.steps for task in tasks}
        latents = self.generator.sample([task.prompt for task in tasks], noise, steps)
        return latents, [float(steps)] * len(tasks)

    def _propose(self, task: GenerateTask, given: tuple[Tensor, Tensor | None] | None) -> Proposal:
        if given is None:
            return Proposal(task.key.draw(0, self.generator.spec.shape)[None], gamma=1.0)
        memory, gradient = given
        if task.again:
            return Proposal(memory)
        assert task.score is not None
        feedback = Feedback(task.score, gradient, self.generator.gain(task.steps))
        return self._optimizer.propose(memory, feedback, task.key)
