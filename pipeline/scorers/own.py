"""A scorer class of the user's own, named in a config as ``package.module:Class``; see :class:`ImageScorer`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from noisesmith.pipeline.config import ScorerConfig
from noisesmith.pipeline.errors import UserError, reason
from noisesmith.pipeline.lazily import torch
from noisesmith.pipeline.models.libraries import Model
from noisesmith.pipeline.records import Question
from noisesmith.pipeline.scorers.family import FoundScorer, ScorerFamily
from noisesmith.pipeline.storage.home import user_path

if TYPE_CHECKING:
    from torch import Tensor

_CLASS_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_class_name(model: str) -> bool:
    """Whether a model is named as ``package.module:Class``; a file or folder of that name comes first."""
    return _CLASS_NAME.fullmatch(model) is not None and not os.path.exists(user_path(model))


def find_class(config: ScorerConfig, field: str) -> Callable[..., object]:
    """Import the class that a config names.

    Raises:
        UserError: code is not allowed, or there is no such module, class or ``log_scores``.
    """
    module, _, name = config.model.partition(":")
    if not config.allow_code:
        raise UserError(
            f"{field}: {config.model!r} names the class {name} of the module {module}, whose code would run; "
            f"set {config.section}.allow_code: true if you trust it"
        )
    try:
        found: object = resolve_name(config.model)
    except Exception as error:  # the module is the user's own code: importing it may raise anything
        raise UserError(
            f"{field}: the class {name} of the module {module} cannot be imported "
            f"({type(error).__name__}: {reason(error)}); install its package, or put its folder on PYTHONPATH"
        ) from error
    if not callable(found) or not callable(getattr(found, "log_scores", None)):
        raise UserError(f"{field}: {name} of the module {module} is not a class with a method log_scores; write one")
    return found


class CheckedScorer:
    """A scorer of the user's own that is held to the protocol, so that a mistake is named where it was made.

    Args:
        scorer: the user's object.
        field: what gave it, for messages: "scorers.model: 'my_module:MyScorer'".

    Raises:
        UserError: it has no ``id``, ``revision`` or ``log_scores``.
    """

    def __init__(self, scorer: object, field: str) -> None:
        texts = []
        for name in ("id", "revision"):
            text = getattr(scorer, name, None)
            if not isinstance(text, str):
                raise UserError(f"{field} has no {name}, or one that is not a string; set it, it is written into rows")
            texts.append(text)
        log_scores = getattr(scorer, "log_scores", None)
        if not callable(log_scores):
            raise UserError(f"{field} has no method log_scores(prompts, images); write one")
        self.id, self.revision = texts
        self._scorer = scorer
        log_answers = getattr(scorer, "log_answers", None)
        self._log_answers: Callable[..., object] | None = log_answers if callable(log_answers) else None
        self._log_scores: Callable[[list[str], Tensor], object] = log_scores
        self._field = field

    def log_scores(self, prompts: list[str], images: Tensor) -> Tensor:
        """As :meth:`ImageScorer.log_scores`.

        Raises:
            TypeError: the result is not a tensor of one number per prompt.
        """
        result = self._log_scores(prompts, images)
        if not isinstance(result, torch.Tensor) or result.shape != (len(prompts),):
            shape = list(result.shape) if isinstance(result, torch.Tensor) else type(result).__name__
            raise TypeError(f"{self._field}: log_scores must return a tensor of shape [{len(prompts)}], not {shape}")
        return result

    def log_answers(self, questions: Sequence[Sequence[Question]], images: Tensor) -> list[Tensor]:
        """As :meth:`QuestionScorer.log_answers`.

        Raises:
            TypeError: there is no such method, or the result is not one tensor per image with a number per question.
        """
        if self._log_answers is None:
            raise TypeError(f"{self._field} has no method log_answers(questions, images), which asks: questions needs")
        result = self._log_answers(questions, images)
        expected = [(len(about_image),) for about_image in questions]
        if not isinstance(result, list) or [getattr(item, "shape", None) for item in result] != expected:
            raise TypeError(f"{self._field}: log_answers must return a list of tensors of the shapes {expected}")
        return result


class OwnScorer(CheckedScorer, ScorerFamily):
    """The family of the users' own classes: constructs the class that a config names.

    Raises:
        UserError: it cannot be constructed, or does not follow the protocol.
    """

    trial_errors = (Exception,)  # log_scores is the user's own code: it may raise anything
    trial_remedy = "mend its log_scores"

    def __init__(self, found: FoundScorer, device: str) -> None:
        assert found.own_class is not None, "find_scorer sets it for this family"
        named = f"{found.source.field}: {found.source.id!r}"
        try:
            scorer = found.own_class(device=device, dtype=found.dtype)
        except Exception as error:  # the class is the user's own code: constructing it may raise anything
            raise UserError(f"{named} cannot be constructed ({type(error).__name__}: {reason(error)})") from error
        super().__init__(scorer, named)

    @classmethod
    def revision_of(cls, found: FoundScorer) -> str:
        return str(getattr(found.own_class, "revision", "unknown"))

    @classmethod
    def without_weights(cls, found: FoundScorer) -> Model | None:
        raise UserError("nothing is known of a scorer class of your own")
