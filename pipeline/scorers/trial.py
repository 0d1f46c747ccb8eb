"""Tries a scorer or judge on one image when it is loaded, so that what cannot work fails before the first row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import PIL.Image

from noisesmith.pipeline.errors import UserError, reason
from noisesmith.pipeline.lazily import torch
from noisesmith.pipeline.models.loading import explained
from noisesmith.pipeline.records import Question
from noisesmith.pipeline.scorers.base import ImageScorer, Judge, QuestionScorer
from noisesmith.pipeline.scorers.family import FoundScorer
from noisesmith.pipeline.scorers.loaded import LoadedScorer
from noisesmith.pipeline.scorers.preprocess import PIL_RESAMPLE

if TYPE_CHECKING:
    from torch import Tensor

PROMPT = "a cat"


@dataclass(frozen=True)
class Trial:
    """One image as a run makes them: its size in pixels, the decoder's dtype, and whether the gradient is used."""

    height: int
    width: int
    dtype: torch.dtype
    gradient: bool

    @classmethod
    def of_pictures(cls, height: int, width: int) -> Trial:
        """One image as it is read from a file, for judges alone."""
        return cls(height, width, torch.float32, gradient=False)

    def image(self) -> Tensor:
        """``[1, 3, H, W]`` float32 in [0, 1]: grey, brighter to the right, since no usual image has one colour only."""
        return torch.linspace(0.25, 0.75, self.width).expand(1, 3, self.height, self.width).clone()


def try_scorer(scorer: ImageScorer, found: FoundScorer, trial: Trial, device: str) -> None:
    """Score one image, and differentiate the score where the run uses the gradient.

    Raises:
        UserError: it fails, or the score is not a number.
    """
    source = found.source
    image = trial.image().to(device, trial.dtype).requires_grad_(trial.gradient)
    with _refused(found), torch.set_grad_enabled(trial.gradient):
        _try_processor(scorer, found, trial)
        log_scores = _score(scorer, found, image)
        if trial.gradient:
            torch.autograd.grad(log_scores.sum(), image)
    if bool(log_scores.isnan().any()):
        raise UserError(
            f"{source.field}: {source.id!r} gives an image a score that is not a number, in {found.type_name}; "
            f"choose another {source.field.removesuffix('.model')}.dtype, or another revision of the model"
        )


def _score(scorer: ImageScorer, found: FoundScorer, image: Tensor) -> Tensor:
    if found.asks == "questions":
        (log_answers,) = cast(QuestionScorer, scorer).log_answers([[Question(f"Is there {PROMPT}?", "Yes")]], image)
        return log_answers
    return scorer.log_scores([PROMPT], image)


def try_judge(judge: Judge, found: FoundScorer, trial: Trial) -> None:
    """Let a judge look at one finished image.

    Raises:
        UserError: it fails.
    """
    with _refused(found):
        _try_processor(judge, found, trial)
        judge.judge([PROMPT], trial.image())


def _try_processor(scorer: ImageScorer | Judge, found: FoundScorer, trial: Trial) -> None:
    """Let the library's own image processor read one image: what it says of its settings is better than a later error.

    Raises:
        UserError: the processor resizes by a filter that this package has no gradient of.
    """
    if not isinstance(scorer, LoadedScorer):
        return
    processor = scorer.processor.image_processor
    processor(images=PIL.Image.new("RGB", (trial.width, trial.height)), return_tensors="pt")
    if processor.do_resize and int(processor.resample) not in PIL_RESAMPLE:
        filters = ", ".join(f"{number} ({name})" for number, name in PIL_RESAMPLE.items())
        raise UserError(
            f"{found.source.field}: the image processor of {found.source.id!r} has resample {processor.resample}, "
            f"which is not supported; use a checkpoint with {filters}"
        )


@contextmanager
def _refused(found: FoundScorer) -> Iterator[None]:
    """Turn what a scorer raises for an image into one sentence that names the model; a bug of ours passes unchanged."""
    family = found.family
    sentence = f"{found.source.field}: {found.source.id!r} cannot score an image"
    try:
        with explained(sentence, f"; {family.trial_remedy}"):
            yield
    except UserError:
        raise
    except family.trial_errors as error:
        why = f"{type(error).__name__}: {reason(error)}"
        raise UserError(f"{sentence} ({why}); {family.trial_remedy}") from error
