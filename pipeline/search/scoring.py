"""What scores a batch: the decoder, the scorers of one group and the judges, loaded as one actor holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.generators import Decoder, find_generator, load_decoder
from noisesmith.pipeline.scorers import (
    Group,
    Judge,
    Trial,
    find_judge,
    find_scorer,
    load_group,
    load_judge,
    reads_overshoot,
)


@dataclass(frozen=True)
class Scoring:
    """What a scorer's actor holds: the decoder, a group of scorers, and in the first group the judges."""

    decoder: Decoder
    group: Group
    judges: Mapping[str, Judge]


def load_scoring(config: RunConfig, index: int, device: str) -> Scoring:
    """Find and load what the actors of a group of scorers hold, and try each model on one image.

    Args:
        index: of the group.

    Raises:
        UserError: one cannot be found or loaded, or cannot score an image.
    """
    members = config.groups[index]
    generator = find_generator(config.generators)
    decoder = load_decoder(generator, device, clamp=not any(map(reads_overshoot, members)))
    spec = generator.spec
    trial = Trial(spec.height, spec.width, decoder.vae.dtype, config.optimizer.uses_gradient)
    found = [find_scorer(member) for member in members]
    group = load_group(members, found, config.combine, device, trial)
    judges: dict[str, Judge] = {}
    if index == 0:
        for judge in config.judges:
            judges[judge.name] = load_judge(find_judge(judge, members[0]), device, trial)
    return Scoring(decoder, group, judges)
