"""What the search asks of a scorer, and what it gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from noisesmith.pipeline.records import Question

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Scores:
    """log s ``[M, B]`` of a group of M scorers, and the group's gradient ``[B, C, H, W]`` where asked for.

    The gradient is ∂/∂z_0 of what the group steers by, a sum of logarithms (``Group.steering``): a small s is 0 in
    float32 and its gradient with it, while log s is not. ``log_atoms`` are as :class:`Answers` has them.
    """

    log_scores: Tensor
    log_gradients: Tensor | None
    log_atoms: Sequence[Tensor] = ()

    @property
    def scores(self) -> Tensor:
        """s ``[M, B]`` in [0, 1]."""
        return self.log_scores.exp().clamp(max=1.0)


class ImageScorer(Protocol):
    """Says how well images show their prompts, and so steers the search. A class of your own may be one.

    An object of such a class can be given to a search in this process. A run names the class in its config::

        scorers:
          model: my_package.my_module:MyScorer
          allow_code: true

    Each scorer worker then constructs it as ``MyScorer(device=device, dtype=dtype)``, with ``device`` ``"cpu"`` or
    ``"cuda"`` and ``dtype`` the ``torch.dtype`` of ``scorers.dtype``. The package must be installed where the workers
    run, or its folder be on their ``PYTHONPATH``. ``scorers.question`` and ``scorers.readout`` do not reach it.
    ``scorers.asks: questions`` needs one more method: :class:`QuestionScorer`.

    A class whose scores have no gradient says so by an attribute ``has_gradient = False``; it is then refused for the
    search methods that need one. Without the attribute, ``log_scores`` must be differentiable.

    Attributes:
        id: the scorer's name, written into every row.
        revision: the version of its weights and code, written into every row.
    """

    id: str
    revision: str

    def log_scores(self, prompts: list[str], images: Tensor) -> Tensor:
        """log s ``[B]`` float32, s in [0, 1], for B prompts and images ``[B, 3, H, W]`` in [0, 1].

        Differentiable with respect to the images. Rows must not influence each other. The images are in the
        decoder's dtype, on its device. Only the ``reference`` readout gets the decoder's overshoot beyond [0, 1].
        """
        ...


class QuestionScorer(ImageScorer, Protocol):
    """A scorer that can also be asked about the parts of a prompt, as ``scorers.asks: questions`` wants it.

    A class of your own is one if it has this method.
    """

    def log_answers(self, questions: Sequence[Sequence[Question]], images: Tensor) -> list[Tensor]:
        """log P(answer) of every question about each image: for image i a tensor ``[len(questions[i])]``.

        The score of an image is the geometric mean of its P(answer). Images and gradients are as for ``log_scores``;
        each image has at least one question, and they may differ in number.
        """
        ...


class ContrastScorer(ImageScorer, Protocol):
    """A scorer that has the readout ``contrastive``."""

    def log_contrasts(self, prompts: list[str], edited: Sequence[Sequence[str]], images: Tensor) -> Tensor:
        """log s ``[B]`` of each prompt among its edits, of which there may be none; as ``log_scores``."""
        ...


class Judge(Protocol):
    """Looks at finished images and never steers."""

    id: str
    revision: str

    def judge(self, prompts: list[str], images: Tensor) -> list[float | None]:
        """A score in [0, 1] for each of images ``[B, 3, H, W]`` in [0, 1]; ``None`` where it cannot say."""
        ...
