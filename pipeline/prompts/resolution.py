"""The size of each row's image, from two columns of the corpus and the buckets of the config."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from noisesmith.pipeline.config import Resolution
from noisesmith.pipeline.config.corpus import MAX_SIDE, MIN_SIDE
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.prompts.source import Batch

# pandas writes the integers of a column with gaps as 1024.0, and a column of JSON text has quotes around a text.
_WHOLE = re.compile(r'\s*"?(\d{1,9})(?:\.0*)?"?\s*')


@dataclass(frozen=True)
class RowSizes:
    """How the rows of one section get their sizes.

    ``width`` and ``height`` are the names that the columns are written with, ``buckets`` the sizes that images may
    have; any when empty.
    """

    width: str
    height: str
    buckets: tuple[Resolution, ...] = ()

    def of(self, row: Mapping[str, object]) -> Resolution:
        """Return the size of a row's image: the one that it asks for, or the bucket that it falls into.

        Raises:
            ValueError: a value is no size; the message says what is wrong, for use inside a sentence.
        """
        wanted = (_pixels(self.width, row[self.width]), _pixels(self.height, row[self.height]))
        if self.buckets:
            return closest(wanted, self.buckets)
        for side in wanted:
            if not MIN_SIDE <= side <= MAX_SIDE:
                raise ValueError(
                    f"asks for {wanted[0]}×{wanted[1]} pixels, and a side has {MIN_SIDE} to {MAX_SIDE:,}; correct it, "
                    "or list the sizes that rows may get in generators.buckets"
                )
        return wanted


@dataclass(frozen=True)
class Asked:
    """How many rows of a corpus have images of one size, and where the first of them stands, for messages."""

    rows: int
    where: str


def count_sizes(batch: Batch, sizes: RowSizes, found: dict[Resolution, Asked]) -> None:
    """Add the sizes of a batch's rows to those that were found before.

    Args:
        batch: with the names that its columns are written with, and values as they stand in the source.

    Raises:
        UserError: there is no such column, or a row has no size that can be used.
    """
    for name in (sizes.width, sizes.height):
        if name not in batch.columns:
            has = ", ".join(map(repr, batch.columns)) or "none except the prompt"
            raise UserError(f"corpus.resolution: {batch.file} has no column {name!r}; its columns are {has}")
    sides = zip(batch.columns[sizes.width], batch.columns[sizes.height], strict=True)
    for position, (width, height) in enumerate(sides):
        try:
            size = sizes.of({sizes.width: width, sizes.height: height})
        except ValueError as error:
            raise UserError(f"{batch.where(position)}: corpus.resolution: {error}") from error
        known = found.get(size, Asked(0, batch.where(position)))
        found[size] = Asked(known.rows + 1, known.where)


def closest(wanted: Resolution, buckets: Sequence[Resolution]) -> Resolution:
    """Return the bucket whose aspect ratio is closest, by the quotient of both ratios; of several the closest in area.

    A size that is itself a bucket stays as it is.
    """
    width, height = wanted

    def distance(bucket: Resolution) -> tuple[float, float]:
        return (
            _quotient(width * bucket[1], height * bucket[0]),
            _quotient(width * height, bucket[0] * bucket[1]),
        )

    return min(buckets, key=distance)


def _quotient(first: int, second: int) -> float:
    """Return the larger number divided by the smaller one."""
    return max(first, second) / min(first, second)


def _pixels(column: str, value: object) -> int:
    """Return a number of pixels from a value as it stands in a source."""
    if value is None or value == "":
        raise ValueError(f"column {column!r} has no value; give it the number of pixels")
    found = None if isinstance(value, bool) else _WHOLE.fullmatch(str(value))
    if found is None or int(found[1]) == 0:
        raise ValueError(f"column {column!r} holds {str(value)[:40]!r}; give it a whole number of pixels above 0")
    return int(found[1])
