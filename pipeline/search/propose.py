"""One turn of many rows: their noises from the search method, their z_0 from the diffusion model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from noisesmith.pipeline.config import AttendAndExciteConfig, InitNoConfig, RunConfig
from noisesmith.pipeline.generators import Generator, load_generator
from noisesmith.pipeline.noise import check_finite, digest, statistics
from noisesmith.pipeline.optimizers import Feedback, Proposal, build_optimizer
from noisesmith.pipeline.optimizers.attend_and_excite import AttendAndExcite
from noisesmith.pipeline.optimizers.initno import InitNo
from noisesmith.pipeline.search.row import GenerateTask, Step
from noisesmith.pipeline.text.subjects import find_subjects


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
        self._attention = _attention(config, self.generator)

    def turn(self, tasks: Sequence[GenerateTask], inputs: Sequence[tuple[Tensor, Tensor | None] | None]) -> Turned:
        """Take every row one turn further.

        Args:
            tasks: rows at any rounds, all with the same number of sampler steps.
            inputs: for each task the memory it starts from and ∂s/∂z_0 there, or ``None`` in round 0.

        Raises:
            FloatingPointError: a z_0 is not finite; the message gives the positions in the batch.
        """
        proposals = [self._propose(task, given) for task, given in zip(tasks, inputs, strict=True)]
        proposals, preparing = self._prepare(tasks, proposals)
        noise = torch.stack([proposal.memory[0] for proposal in proposals])
        latents, denoising = self.denoise(tasks, noise)
        check_finite("z_0", latents)
        steps = [
            Step(p.gamma, p.index, statistics(p.memory[0]), digest(p.memory[0]), len(tasks), before + spent)
            for p, before, spent in zip(proposals, preparing, denoising, strict=True)
        ]
        return Turned([proposal.memory for proposal in proposals], latents, steps)

    def denoise(self, tasks: Sequence[GenerateTask], noise: Tensor) -> tuple[Tensor, list[float]]:
        """z_0 ``[B, C, H, W]`` of noises, and the U-Net evaluations each row took."""
        (steps,) = {task.steps for task in tasks}
        prompts = self._prompts(tasks)
        if isinstance(self._attention, AttendAndExcite):
            return self._attention.sample(prompts, self._subjects(tasks, prompts), noise, steps)
        return self.generator.sample(prompts, noise, steps), [float(steps)] * len(tasks)

    def _prepare(self, tasks: Sequence[GenerateTask], proposals: list[Proposal]) -> tuple[list[Proposal], list[float]]:
        """Optimise fresh noises by attention where the method does, and what that cost each row."""
        spent = [0.0] * len(tasks)
        fresh = [place for place, task in enumerate(tasks) if not task.again]
        if isinstance(self._attention, InitNo) and fresh:
            asked = [tasks[place] for place in fresh]
            prompts = self._prompts(asked)
            noises, costs = self._attention.prepare(
                prompts,
                self._subjects(asked, prompts),
                [task.key for task in asked],
                self.generator.spec.shape,
                asked[0].steps,
            )
            for place, noise, cost in zip(fresh, noises, costs, strict=True):
                proposals[place], spent[place] = Proposal(noise[None]), cost
        return proposals, spent

    def _prompts(self, tasks: Sequence[GenerateTask]) -> list[str]:
        return [self.generator.plain(task.prompt) for task in tasks]

    def _subjects(self, tasks: Sequence[GenerateTask], prompts: Sequence[str]) -> list[Sequence[str]]:
        """Those the corpus lists, else those found in the prompt; as :meth:`_prompts` writes them."""
        return [
            [self.generator.plain(subject) for subject in task.subjects] or find_subjects(prompt)
            for task, prompt in zip(tasks, prompts, strict=True)
        ]

    def _propose(self, task: GenerateTask, given: tuple[Tensor, Tensor | None] | None) -> Proposal:
        if given is None:
            return Proposal(task.key.draw(0, self.generator.spec.shape)[None], gamma=1.0)
        memory, gradient = given
        if task.again:
            return Proposal(memory)
        assert task.score is not None
        feedback = Feedback(task.score, gradient, self.generator.gain(task.steps))
        return self._optimizer.propose(memory, feedback, task.key)


def _attention(config: RunConfig, generator: Any) -> InitNo | AttendAndExcite | None:
    """The method that works inside the loaded generator, where the optimizer is one."""
    if isinstance(config.optimizer, InitNoConfig):
        return InitNo(generator.pipe, config.optimizer, config.generators)
    if isinstance(config.optimizer, AttendAndExciteConfig):
        return AttendAndExcite(generator.pipe, config.optimizer, config.generators)
    return None
