"""The move of the search: the noise that each row's next image starts from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from noisesmith.pipeline.config import OptimizerConfig
from noisesmith.pipeline.generators import Generator
from noisesmith.pipeline.lazily import torch
from noisesmith.pipeline.noise import replay
from noisesmith.pipeline.optimizers import Feedback, Optimizer, Proposal, Request
from noisesmith.pipeline.search.tasks import GenerateTask, Slope, Start
from noisesmith.pipeline.text.subjects import find_read_subjects

if TYPE_CHECKING:
    from torch import Tensor


def propose(
    optimizer: Optimizer,
    generator: Generator,
    tasks: Sequence[GenerateTask],
    starts: Sequence[Start[Tensor] | None],
) -> list[Proposal]:
    """Propose the next noise of every row of a batch, before the method refines it with the model.

    Args:
        tasks: rows at any rounds, all with the same number of sampler steps.
        starts: what each row moves from; ``None`` for a first image.
    """
    proposals = []
    for task, start in zip(tasks, starts, strict=True):
        if start is None:
            proposals.append(Proposal(_first_noise(task, generator)[None], gamma=1.0))
        elif task.rerender:
            proposals.append(Proposal(start.state))
        else:
            if task.score is None:
                raise ValueError(
                    f"round {task.key.round} of row {task.key.row_id} starts from an image without a score"
                )
            slope = _sum(start.slopes)
            # The slope is that of the image it starts from, which a preview's parent has made in more steps.
            steps = task.scored_steps or task.steps
            at_noise = None if slope is None else generator.pull_back(slope, steps, task.scored_at)
            feedback = Feedback(task.score, at_noise, generator.gain(steps, task.scored_at))
            proposals.append(optimizer.propose(start.state, feedback, task.key))
    return proposals


def _first_noise(task: GenerateTask, generator: Generator) -> Tensor:
    """A fresh noise or, where a row continues a search, the one that its parent has kept."""
    if task.begins is not None:
        return replay(task.begins, task.key.row_id)
    return task.key.draw(0, generator.spec.shape)


def _sum(slopes: Sequence[Slope[Tensor]]) -> Tensor | None:
    """Σ factor · gradient, or ``None`` where no gradient was computed."""
    if not slopes:
        return None
    return torch.stack([slope.factor * slope.log_gradient for slope in slopes]).sum(0)


def requests_of(config: OptimizerConfig, generator: Generator, tasks: Sequence[GenerateTask]) -> list[Request]:
    """Tasks as a search method sees them: prompts free of control tokens, and the subjects it looks for.

    The subjects are those that the corpus lists for the row, else those found in the part of its prompt that the text
    encoder reads. A row may have none: a method then treats it as a plain one.
    """
    requests = []
    for task in tasks:
        prompt = generator.plain(task.prompt)
        subjects: list[str] = []
        if config.reads_attention:
            listed = [generator.plain(subject) for subject in task.subjects]
            subjects = listed or find_read_subjects(generator.pipe.tokenizer, prompt)
        requests.append(Request(prompt, subjects, task.key, task.steps, task.rerender))
    return requests
