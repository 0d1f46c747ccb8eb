"""What a model's images of the held-out prompts show: scores, judges and diversity."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, islice

import torch
from torch import Tensor

from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.errors import RunError
from noisesmith.pipeline.generators.adapter import Adapter
from noisesmith.pipeline.images import to_uint8
from noisesmith.pipeline.noise import NoiseKey
from noisesmith.pipeline.records import Row
from noisesmith.pipeline.scorers import Asked
from noisesmith.pipeline.search.asking import edits_of, questions_of
from noisesmith.pipeline.search.combine import Combination
from noisesmith.pipeline.search.loop import LoadedModels

SCORE = "score"
DIVERSITY = "diversity"
NOISE_SEED = 2**62  # of no run that a person starts: no noise that was searched is evaluated

Values = dict[str, float | None]


@dataclass(frozen=True)
class _Image:
    """One picture ``[H, W, 3]`` uint8 of a prompt, by its number, and what is said of it."""

    prompt: int
    picture: Tensor
    values: Values


@torch.no_grad()
def evaluate(
    rows: Sequence[Row],
    count: int,
    config: RunConfig,
    generator: Adapter,
    models: LoadedModels,
    on_images: Callable[[int], None],
) -> list[Values]:
    """Make ``count`` images of each prompt, always from the same noises, and return each prompt's means.

    The values are ``score`` (of the panel), ``score_NAME`` of its members where it has several, ``judge_NAME``, and
    ``diversity``; ``None`` where a judge could read no image of the prompt.

    Args:
        on_images: called with the number of images after each batch.

    Raises:
        RunError: the model is broken.
    """
    tasks = ((number, image) for number in range(len(rows)) for image in range(count))
    found: list[list[_Image]] = [[] for _ in rows]
    while batch := list(islice(tasks, config.generators.batch_size)):
        for made in _batch(rows, batch, config, generator, models):
            found[made.prompt].append(made)
        on_images(len(batch))
    return [_of_prompt(images) for images in found]


def _batch(
    rows: Sequence[Row],
    tasks: Sequence[tuple[int, int]],
    config: RunConfig,
    generator: Adapter,
    models: LoadedModels,
) -> Iterator[_Image]:
    chosen = [rows[number] for number, _ in tasks]
    prompts = [row.prompt for row in chosen]
    noises = []
    for row, (_, image) in zip(chosen, tasks, strict=True):
        noises.append(NoiseKey(NOISE_SEED, row.id, 0).draw(image, generator.spec.shape))
    plain = [generator.plain(prompt) for prompt in prompts]
    images = models.decoder(generator.sample(plain, torch.stack(noises), config.generators.steps))
    asked = Asked(prompts, [questions_of(row, config) for row in chosen], [edits_of(row, config) for row in chosen])
    log_scores = torch.cat([group.answer(asked, images).log_scores.float().cpu() for group in models.groups])
    if log_scores.isnan().any():
        raise RunError(
            "an image of the trained model has no score, so its weights are useless; lower the learning rates"
        )
    pictures = to_uint8(images)
    seen = pictures.permute(0, 3, 1, 2).float() / 255  # as a judge sees the PNG file
    judged = {name: judge.judge(prompts, seen) for name, judge in models.judges.items()}
    combination = Combination(config)
    for position, (number, _) in enumerate(tasks):
        of_members = log_scores[:, position].tolist()
        values: Values = {SCORE: combination.score(of_members)}
        for name, (score, _) in combination.by_member(of_members, of_members).items():
            values[f"score_{name}"] = score
        for name, verdicts in judged.items():
            values[f"judge_{name}"] = verdicts[position]
        yield _Image(number, pictures[position], values)


def _of_prompt(images: Sequence[_Image]) -> Values:
    """The means over a prompt's images."""
    means: Values = {}
    for name in images[0].values:
        known = [value for image in images if (value := image.values[name]) is not None]
        means[name] = sum(known) / len(known) if known else None
    means[DIVERSITY] = diversity([image.picture for image in images])
    return means


def diversity(pictures: Sequence[Tensor]) -> float:
    """The mean over pairs of pictures ``[H, W, 3]`` uint8 of their root mean squared difference of pixels, in 0..1."""
    scaled = [picture.double() / 255 for picture in pictures]
    distances = [float((one - other).square().mean().sqrt()) for one, other in combinations(scaled, 2)]
    return sum(distances) / len(distances)
