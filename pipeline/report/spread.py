"""What a card says of single rows beyond their means: how scores are spread, what failed, what the corpus asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.report.summary import Row
from noisesmith.pipeline.schema import reserved_columns
from noisesmith.pipeline.sinks.header import Header
from noisesmith.pipeline.sinks.layout import letters_file
from noisesmith.pipeline.sinks.manifest import Manifest
from noisesmith.pipeline.sinks.staging import read_letters

BINS = 10
MOST_VALUES = 30  # a corpus column with more different values is no category


@dataclass(frozen=True)
class Category:
    """One value of a corpus column: how many rows have it, and the mean scores of their first and kept images."""

    value: str
    rows: int
    first: float
    kept: float


@dataclass
class Spread:
    """How the rows of a run are spread.

    ``bins`` has the numbers of first and of kept images with a score in [k/10, (k+1)/10), the last one with 1;
    ``categories`` has the values of each corpus column of few texts; ``errors`` counts the failed rows by the class of
    their last error.
    """

    bins: list[tuple[int, int]] = field(default_factory=list)
    categories: dict[str, list[Category]] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)


class SpreadCounter:
    """Counts how rows are spread while something else reads them, so that a run is read once.

    ``columns`` are those that it needs of a row.
    """

    def __init__(self, config: RunConfig, header: Header) -> None:
        self._values = {name: _Values() for name in _texts_of_corpus(header, config)}
        self._first: Counter[int] = Counter()
        self._kept: Counter[int] = Counter()
        self.columns = ["score_initial", "score", *self._values]

    def counting(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Yield the rows as they come, counted."""
        for row in rows:
            scores = row["score_initial"], row["score"]
            self._first[_bin(scores[0])] += 1
            self._kept[_bin(scores[1])] += 1
            for name, values in self._values.items():
                values.add(row[name], scores)
            yield row

    def spread(self, errors: dict[str, int]) -> Spread:
        """How the rows counted so far are spread; ``errors`` are those of :class:`Spread`."""
        found = {name: values.categories() for name, values in self._values.items()}
        return Spread(
            bins=[(self._first[number], self._kept[number]) for number in range(BINS)],
            categories={name: categories for name, categories in found.items() if len(categories) > 1},
            errors=errors,
        )


def count_errors(run_dir: Path, manifest: Manifest) -> dict[str, int]:
    """Return the failed rows of committed shards by the class of their last error, the commonest first.

    Raises:
        UserError: a file of dead letters is damaged.
    """
    errors: Counter[str] = Counter()
    for shard, entry in manifest.entries.items():
        if entry.failed and letters_file(run_dir, shard).is_file():
            errors.update(letter["error"] for letter in read_letters(run_dir, shard).values())
    return dict(errors.most_common())


def _texts_of_corpus(header: Header, config: RunConfig) -> list[str]:
    """The corpus's own columns of text."""
    own = reserved_columns(config)
    return [name for name, kind in header.columns.items() if kind == "string" and name not in own]


def _bin(score: float) -> int:
    return min(max(int(score * BINS), 0), BINS - 1)


class _Values:
    """The rows of each value of a column, until there are too many values."""

    def __init__(self) -> None:
        self._sums: dict[str, list[float]] = {}  # by value: rows, sum of first scores, sum of kept scores
        self._too_many = False

    def add(self, value: str | None, scores: tuple[float, float]) -> None:
        if value is None or self._too_many:
            return
        sums = self._sums.setdefault(value, [0, 0.0, 0.0])
        for position, amount in enumerate((1, *scores)):
            sums[position] += amount
        self._too_many = len(self._sums) > MOST_VALUES

    def categories(self) -> list[Category]:
        """The values, the commonest first; none where most rows have a value of their own."""
        counted = sum(sums[0] for sums in self._sums.values())
        if self._too_many or 2 * len(self._sums) > counted:
            return []
        found = []
        for value, (rows, first, kept) in self._sums.items():
            found.append(Category(value, int(rows), first / rows, kept / rows))
        return sorted(found, key=lambda category: (-category.rows, category.value))
