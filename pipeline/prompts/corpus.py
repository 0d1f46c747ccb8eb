"""An opened corpus: prompts from one or several sources, streamed in a fixed order."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa

from noisesmith.pipeline.config import Partition, Resolution
from noisesmith.pipeline.errors import RunError, UserError
from noisesmith.pipeline.prompts.columns import conform
from noisesmith.pipeline.prompts.digests import checksum, encode
from noisesmith.pipeline.prompts.questions import edit_list, question_list
from noisesmith.pipeline.prompts.resolution import Asked, RowSizes
from noisesmith.pipeline.prompts.selection import Selection
from noisesmith.pipeline.prompts.source import Batch, Column, Source
from noisesmith.pipeline.records import Row, row_id


@dataclass(frozen=True)
class Part:
    """What a corpus takes from one source, or from one file of a folder.

    ``size`` counts its rows, ``checksums`` has one entry per batch, ``columns`` says how the extra columns are read,
    ``subjects`` names the column that lists the prompt's subjects, ``questions`` and ``edits`` the others.
    ``resolution`` says how a row gets the size of its images.
    """

    source: Source
    selection: Selection
    size: int
    checksums: tuple[bytes, ...]
    columns: Mapping[str, Column]
    subjects: str | None = None
    questions: str | None = None
    edits: str | None = None
    resolution: RowSizes | None = None

    def with_columns(self, columns: Mapping[str, Column]) -> Part:
        """Return this part with its columns read in another way."""
        return replace(self, columns=columns)

    def batches(self) -> Iterator[Batch]:
        """Yield the batches that were read when the corpus was opened.

        Raises:
            RunError: the source has changed since; no row of a changed batch is ever yielded.
        """
        batches = first_rows(self.source.batches(), self.size)
        try:
            for expected in self.checksums:
                raw = next(batches, None)
                if raw is None:
                    raise self._changed("it is shorter")
                batch = self.selection.renamed(self.selection.kept(raw))
                if checksum(encode(batch)) != expected:
                    raise self._changed(f"it differs at {batch.unit} {batch.numbers[0]} or after")
                yield batch
        except UserError as error:  # the source could be read when the corpus was opened
            raise self._changed(str(error).removeprefix("corpus.source: ")) from error

    def _changed(self, how: str) -> RunError:
        return RunError(f"corpus.source: {self.source.name} has changed since the run began ({how}); restore it")


@dataclass(frozen=True)
class Corpus:
    """Prompts in a fixed order.

    ``digest`` is the SHA-256 over prompts, extra columns, their types and the order. ``sections`` has the source,
    number of rows and format of each corpus section, and ``as_json`` the columns that are written as JSON text.
    ``first`` is the index of the first row in its run, which may have started with other prompts. ``size`` counts the
    rows of the run: where it is a ``partition``, these are the rows of its shards of ``rows_per_shard``.
    ``resolutions`` has the sizes of images that rows of all sources ask for, in the order in which they appear.
    """

    digest: str
    size: int
    extra_schema: pa.Schema
    parts: tuple[Part, ...]
    sections: tuple[tuple[str, int, str], ...]
    as_json: tuple[str, ...] = ()
    first: int = 0
    partition: Partition | None = None
    rows_per_shard: int = 0
    resolutions: Mapping[Resolution, Asked] = field(default_factory=dict)

    @property
    def whole(self) -> int:
        """The number of rows that all sources have, whichever run makes them."""
        return sum(part.size for part in self.parts)

    def dealt(self, partition: Partition, rows_per_shard: int) -> Corpus:
        """Return this corpus with the rows of a partition alone, which keep their indices.

        Raises:
            UserError: there are fewer shards than partitions.
        """
        shards = -(-self.whole // rows_per_shard)
        if shards < partition.of:
            raise UserError(
                f"partition: {partition} would leave runs without a row, since the corpus has {shards} shards of "
                f"{rows_per_shard} rows; deal it to at most {shards} runs, or lower output.rows_per_shard"
            )
        size = partition.rows(self.whole, rows_per_shard)
        return replace(self, size=size, partition=partition, rows_per_shard=rows_per_shard)

    def rows(self, start: int = 0, stop: int | None = None, skip: Container[int] = ()) -> Iterator[Row]:
        """Yield rows in order, in constant memory.

        Args:
            start, stop: the first position, and the one after the last; the end of the corpus when absent. Positions
                count all rows, also those that this run does not make.
            skip: indices to leave out, which are positions counted from ``first`` on.

        Raises:
            RunError: a source has changed since the corpus was opened.
        """
        stop = self.whole if stop is None else min(stop, self.whole)
        first = 0
        for part in self.parts:
            if first < stop and first + part.size > start:
                yield from self._rows_of(part, first, range(start, stop), skip)
            first += part.size

    def _rows_of(self, part: Part, first: int, among: range, skip: Container[int]) -> Iterator[Row]:
        """Yield the rows of one part, whose first row has the position ``first``."""
        for batch in part.batches():
            positions = range(max(first, among.start), min(first + len(batch), among.stop))
            wanted = [position for position in self._own(positions) if self.first + position not in skip]
            taken = batch.take([position - first for position in wanted])
            for position, prompt, extra in zip(wanted, taken.prompts, self._extras(part, taken), strict=True):
                index = self.first + position
                subjects = subject_list(extra[part.subjects]) if part.subjects else ()
                questions = question_list(extra[part.questions]) if part.questions else ()
                edits = edit_list(extra[part.edits]) if part.edits else ()
                size = part.resolution.of(extra) if part.resolution else None
                yield Row(index, row_id(index, prompt), prompt, extra, subjects, questions, edits, resolution=size)
            first += len(batch)
            if first >= among.stop:
                return

    def _own(self, positions: range) -> Iterator[int]:
        """Yield the positions that this run makes."""
        for position in positions:
            if self.partition is None or self.partition.owns(position // self.rows_per_shard):
                yield position

    def _extras(self, part: Part, batch: Batch) -> list[dict[str, object]]:
        """Return the extra columns of each row of a batch; those that this part lacks are ``None``."""
        extras: list[dict[str, object]] = [{} for _ in range(len(batch))]
        for column in self.extra_schema:
            values: Sequence[object] = batch.columns.get(column.name, [None] * len(batch))
            if part.source.text_cells:
                values = [value or None for value in values]
            reading = part.columns.get(column.name)
            if reading is not None and reading.convert is not None:
                convert = reading.convert
                values = [None if value is None else convert(value) for value in values]
            for extra, value in zip(extras, conform(values, column.type), strict=True):
                extra[column.name] = value
        return extras


def subject_list(value: object) -> tuple[str, ...]:
    """Return the subjects in a column's value: a list of texts, or one text with commas between the subjects."""
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list | tuple):
        return ()
    stripped = [name.strip() for name in names if name]
    return tuple(name for name in stripped if name)


def first_rows(batches: Iterator[Batch], size: int | None) -> Iterator[Batch]:
    """Yield batches up to ``size`` rows, and read the source no further."""
    left = size
    for batch in batches:
        if left is None:
            yield batch
        elif len(batch) < left:
            yield batch
            left -= len(batch)
        else:
            yield batch[:left]
            return
