"""The families of scorers behind one constructor, and the record of a scorer that was found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from noisesmith.pipeline.lazily import torch
from noisesmith.pipeline.models.libraries import Model
from noisesmith.pipeline.models.locate import ModelSource
from noisesmith.pipeline.text.limits import TextLimit


@dataclass(frozen=True)
class FoundScorer:
    """A scorer or judge that was found and checked, and not loaded yet.

    Attributes:
        source: where its files are, or the server that holds it.
        family: the class that loads and asks it.
        question: template with ``{prompt}``.
        readout: how an answer is read: ``yes``, ``yes_no``, ``reference``, ``caption``, ``contrastive`` or
            ``rating``.
        type_name: type of its weights, as ``float32``.
        api_key_env: the environment variable that holds a server's key.
        own_class: the user's own class, where the config names one.
        asks: what it is asked: ``prompt`` or ``questions``.
        hint: appended to each question about a part of a prompt.
        at_once: the most questions in one forward pass.
    """

    source: ModelSource
    family: type[ScorerFamily]
    question: str
    readout: str
    type_name: str
    api_key_env: str | None = None
    own_class: Callable[..., object] | None = None
    asks: str = "prompt"
    hint: str = ""
    at_once: int = 8

    @property
    def dtype(self) -> torch.dtype:
        """Type of its weights."""
        found: torch.dtype = getattr(torch, self.type_name)
        return found

    @property
    def revision(self) -> str:
        """The version that the loaded scorer reports, known without loading it."""
        return self.family.revision_of(self)

    @property
    def is_remote(self) -> bool:
        """Whether a server holds the model."""
        return self.family.is_remote

    @property
    def has_gradient(self) -> bool:
        """Whether its scores can be differentiated with respect to the image."""
        if self.own_class is not None:
            return bool(getattr(self.own_class, "has_gradient", True))
        return self.family.has_gradient

    @property
    def answers_questions(self) -> bool:
        """Whether it can be asked about parts of a prompt."""
        if self.own_class is not None:
            return callable(getattr(self.own_class, "log_answers", None))
        return self.family.answers_questions


class ScorerFamily(ABC):
    """A class of scorers or judges that is constructed from what was found.

    Attributes:
        id: the model as the config names it.
        revision: a commit or fingerprint of its weights.
        has_gradient: whether its scores can be differentiated with respect to the image.
        is_remote: whether a server holds the model.
        answers_questions: whether it can be asked about parts of a prompt: see :class:`QuestionScorer`.
        quantizes: whether its weights can be quantised as they are loaded.
        readouts: how its answers can be read.
        trial_errors: what it raises itself for an image that it cannot score.
        trial_remedy: what to do where it fails at its first image.
    """

    has_gradient: ClassVar[bool] = True
    is_remote: ClassVar[bool] = False
    answers_questions: ClassVar[bool] = False
    quantizes: ClassVar[bool] = False
    readouts: ClassVar[tuple[str, ...]] = ("yes", "yes_no")
    trial_errors: ClassVar[tuple[type[Exception], ...]] = ()
    trial_remedy: ClassVar[str] = (
        "its config.json and its processor's and tokenizer's files must fit each other; give another revision of it"
    )
    id: str
    revision: str

    @abstractmethod
    def __init__(self, found: FoundScorer, device: str) -> None:
        """Load the model.

        Raises:
            UserError: it cannot be loaded.
        """

    @classmethod
    def revision_of(cls, found: FoundScorer) -> str:
        """A commit or a fingerprint of the weights that were found."""
        return found.source.resolved_revision()

    @classmethod
    def text_limits(cls, found: FoundScorer) -> list[TextLimit]:
        """What each part of the model reads of the text about a prompt; empty where that is not known here.

        Raises:
            OSError, ValueError: a tokenizer's files are not here, or not understood.
            UserError: ``config.json`` is not here.
        """
        return []

    @classmethod
    @abstractmethod
    def without_weights(cls, found: FoundScorer) -> Model | None:
        """The model on the ``meta`` device, from its JSON files alone; ``None`` where it is held elsewhere.

        Raises:
            UserError: a JSON file is not here.
        """
