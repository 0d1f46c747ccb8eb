"""The ways to train that are compared."""

from __future__ import annotations

from dataclasses import dataclass

REFERENCE = "untouched"
BASELINE = "first_images"
REPEAT_SEED = 1_000_000  # added to the seed of a repetition


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        label: its name in files and tables.
        pictures: which ones are trained on: ``first``, ``kept``, ``accepted`` or ``pairs``; ``None`` for no training.
        why: what the arm shows.
        seed_offset: added to the seed of its training.
    """

    label: str
    pictures: str | None
    why: str
    seed_offset: int = 0

    @property
    def of_pairs(self) -> bool:
        return self.pictures == "pairs"


ARMS = (
    Arm(REFERENCE, None, "the model as it is"),
    Arm(BASELINE, "first", "fine-tuned on its own first images: what training alone does, without any search"),
    Arm("kept_images", "kept", "fine-tuned on the images that the search kept"),
    Arm("accepted", "accepted", "fine-tuned on those kept images alone that the rule accepts"),
    Arm("pairs", "pairs", "Diffusion-DPO on pairs of an accepted kept image and a first image that is not accepted"),
    Arm("repeat", "first", f"`{BASELINE}` again with another seed: how much the seed alone changes", REPEAT_SEED),
)
