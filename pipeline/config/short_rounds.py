"""Search rounds that are cheaper than a full image: previews take fewer sampler steps, and probes stop early."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import Field

from noisesmith.pipeline.config.models import GeneratorConfig
from noisesmith.pipeline.config.section import Section


class PreviewConfig(Section):
    """Cheap rounds: few sampler steps while searching; the best images are rendered again at full T."""

    steps: int = Field(ge=1, le=1000, description="sampler steps of a search round; the first image has full T")
    keep: int = Field(1, ge=1, le=64, description="best previews to render and score again at full T")

    def describe(self) -> str:
        """What these rounds are, for readers of the dataset."""
        again = "preview is" if self.keep == 1 else f"{self.keep} previews are"
        return (
            f"Rounds are previews: the sampler takes {self.steps} steps while it searches. When the search stops, the "
            f"best {again} rendered again at full steps and scored again. Only images at full steps are kept."
        )


class ProbeConfig(Section):
    """Rounds that end early: the image predicted part of the way is scored; the best go on from there to full T."""

    at: float = Field(gt=0, lt=1, description="share of the sampler steps after which a round's image is scored")
    keep: int = Field(2, ge=1, le=64, description="best probes to finish and score again at full T")

    def describe(self) -> str:
        """What these rounds are, for readers of the dataset."""
        again = (
            "image goes on from there to full steps and is"
            if self.keep == 1
            else (f"{self.keep} images go on from there to full steps and are")
        )
        return (
            f"Rounds are probes: the sampler pauses after {self.at:.0%} of its steps, and the image that the model "
            f"predicts there is scored. When the search stops, the best {again} scored again. Only images at full "
            "steps are kept."
        )


class ShortRounds(NamedTuple):
    """Search rounds that make previews or probes: images that are scored, and never kept as they are.

    Attributes:
        steps: sampler steps of a round.
        keep: how many of the images are made at full steps in the end.
        more: sampler steps that each of these takes then.
    """

    steps: int
    keep: int
    more: int


def short_rounds(preview: PreviewConfig | None, probe: ProbeConfig | None, steps: int) -> ShortRounds | None:
    """How rounds end before the sampler's ``steps``; ``None`` where they do not."""
    if preview is not None:
        return ShortRounds(preview.steps, preview.keep, steps)
    if probe is not None:
        taken = round(probe.at * steps)
        return ShortRounds(taken, probe.keep, steps - taken)
    return None


def check_short_rounds(
    preview: PreviewConfig | None, probe: ProbeConfig | None, method: str, generators: GeneratorConfig
) -> None:
    """Refuse rounds that are no shorter than a full image, and probes of what cannot go on from where it has stopped.

    Raises:
        ValueError: names the field.
    """
    steps = generators.steps
    if preview and preview.steps >= steps:
        raise ValueError(f"optimizer.preview.steps: {preview.steps} must be below generators.steps, {steps}")
    if probe is None:
        return
    if preview:
        raise ValueError("optimizer.probe: rounds are previews already; remove optimizer.preview or optimizer.probe")
    if method == "attend_and_excite":
        raise ValueError(
            "optimizer.probe: attend_and_excite moves the latents during sampling, so that its images cannot be "
            "paused; remove it, or use another method"
        )
    if generators.skip_layer_guidance is not None:
        raise ValueError(
            "optimizer.probe: skip_layer_guidance counts the sampler steps from the first one of a call, so that an "
            "image cannot go on from where it has paused; remove one of them"
        )
    if not 0 < round(probe.at * steps) < steps:
        raise ValueError(
            f"optimizer.probe.at: {probe.at:g} of {steps} steps is "
            f"{'none of them' if probe.at < 0.5 else 'all of them'}; change it, or raise generators.steps"
        )
