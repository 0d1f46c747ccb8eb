"""Which two images of a row become a pair, and what each of them is worth."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.export.options import TWO_IMAGES, ExportOptions
from noisesmith.pipeline.export.source import Source
from noisesmith.pipeline.schema import LISTED

SCORE = "score"


class Pairs(ABC):
    """Chooses two images of a row.

    ``by`` names what rates them. ``decides_by`` are the columns that :meth:`values` reads, ``images`` those that
    :meth:`pictures` reads besides them.
    """

    by: str
    decides_by: Collection[str]
    images: Collection[str]

    @abstractmethod
    def values(self, row: Mapping[str, Any]) -> tuple[float | None, float | None] | str:
        """Return what ``by`` says of both images, or why the row has no such pair, as it is counted."""

    @abstractmethod
    def pictures(self, row: Mapping[str, Any]) -> tuple[bytes, bytes]:
        """Return the PNG bytes of both images."""


class KeptAndFirst(Pairs):
    """The kept and the first image, rated by the score, a scorer of the panel or a judge."""

    images = ("image", "image_initial")

    def __init__(self, by: str) -> None:
        self.by = by
        self.decides_by = (by, f"{by}_initial")

    def values(self, row: Mapping[str, Any]) -> tuple[float | None, float | None]:
        return row[self.by], row[f"{self.by}_initial"]

    def pictures(self, row: Mapping[str, Any]) -> tuple[bytes, bytes]:
        return row["image"], row["image_initial"]


class KeptAndWorst(Pairs):
    """The kept image and the one with the lowest score, previews and probes aside."""

    by = SCORE
    decides_by = (SCORE, "scores", "steps")
    images = ("image", LISTED)

    def values(self, row: Mapping[str, Any]) -> tuple[float | None, float | None]:
        return row[SCORE], row["scores"][_worst(row)]

    def pictures(self, row: Mapping[str, Any]) -> tuple[bytes, bytes]:
        return row["image"], row[LISTED][_worst(row)]


class TwoImages(Pairs):
    """Two images by their numbers. Some rows ended before one of them was made; previews and probes are not kept."""

    by = SCORE
    decides_by = ("scores", "steps")
    images = (LISTED,)

    def __init__(self, numbers: tuple[int, int]) -> None:
        self._numbers = numbers

    def values(self, row: Mapping[str, Any]) -> tuple[float | None, float | None] | str:
        full = full_images(row["steps"])
        for number in self._numbers:
            if number not in full:
                return f"that kept no image {number}"
        first, second = self._numbers
        return row["scores"][first], row["scores"][second]

    def pictures(self, row: Mapping[str, Any]) -> tuple[bytes, bytes]:
        first, second = self._numbers
        return row[LISTED][first], row[LISTED][second]


def read_pairs(source: Source, options: ExportOptions) -> Pairs:
    """Return what ``--pairs`` and ``--by`` ask for.

    Raises:
        UserError: the run did not keep these images, or the column does not rate them.
    """
    columns = source.columns
    text = options.pairs or "first"
    if text == "first":
        _check_first(source, options.by or SCORE)
        return KeptAndFirst(options.by or SCORE)
    kept = source.manifest.header.config.get("output.images") if LISTED in columns else None
    if kept is None or (text != "worst" and kept != "all"):
        needed = "worst" if text == "worst" else "all"
        raise UserError(
            f"--pairs {text}: {source.run_dir} did not keep these images, and a recipe rebuilds the kept one only; use "
            f"--pairs first, or make a run with output.images={needed}"
        )
    if options.by not in (None, SCORE):
        raise UserError(f"--by {options.by}: judges see the first and the kept image only; use score, or --pairs first")
    numbers = TWO_IMAGES.fullmatch(text)
    return KeptAndWorst() if numbers is None else TwoImages((int(numbers[1]), int(numbers[2])))


def full_images(steps: Sequence[int]) -> list[int]:
    """Return the numbers of the images at full steps, no previews or probes: as many sampler steps as the first."""
    return [number for number, count in enumerate(steps) if count == steps[0]]


def _worst(row: Mapping[str, Any]) -> int:
    """The image that a run with ``output.images=worst`` keeps: of equal scores the first."""
    scores = row["scores"]
    return min(full_images(row["steps"]), key=lambda number: scores[number])


def _check_first(source: Source, by: str) -> None:
    if "image_initial" not in source.columns:
        raise UserError(
            f"--to dpo: {source.run_dir} has kept no first images to compare with; make a run with "
            "output.image_initial=true"
        )
    if by not in source.rated:
        raise UserError(f"--by {by}: does not rate first and kept images; use {', '.join(source.rated)}")
