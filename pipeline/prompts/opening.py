"""Open a corpus: read every source once in full, to check it, count it and compute the digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa

from noisesmith.pipeline.config import CorpusConfig, Resolution, RunConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.prompts.column_types import ColumnTypes, converted, lists_text, unite
from noisesmith.pipeline.prompts.corpus import Corpus, Part, first_rows, subject_list
from noisesmith.pipeline.prompts.digests import ColumnHash, checksum, encode
from noisesmith.pipeline.prompts.folder import Folder
from noisesmith.pipeline.prompts.prompt import prompt_problem
from noisesmith.pipeline.prompts.questions import EDITS_EXAMPLE, EXAMPLE, edit_list, question_list
from noisesmith.pipeline.prompts.resolution import Asked, RowSizes, count_sizes
from noisesmith.pipeline.prompts.selection import Selection
from noisesmith.pipeline.prompts.source import Batch, Column, Source
from noisesmith.pipeline.prompts.sources import open_source
from noisesmith.pipeline.schema import reserved_columns
from noisesmith.pipeline.text.subjects import occurrences


def open_corpus(config: RunConfig, started: str | None = None, first: int = 0) -> Corpus:
    """Read every source of ``config.corpus`` once, and refuse what cannot become a row.

    Where the config names a partition, the corpus has its rows alone; everything is read and checked nevertheless.

    Args:
        started: the digest of the corpus with which a run started that is resumed. Where this version reads another
            corpus, but the reading of earlier versions gives this one, that is used: a run keeps its columns and types.
        first: the index of its first row in the run.

    Raises:
        UserError: there is no source, or a source, a row or a column is unusable; the message names file and line. Or
            there are more partitions than shards.
    """
    if not config.corpus:
        raise UserError("corpus: is required; name a source of prompts, such as corpus.source=prompts.txt")
    corpus = replace(_as_started(config, started), first=first)
    return corpus if config.partition is None else corpus.dealt(config.partition, config.output.rows_per_shard)


def _as_started(config: RunConfig, started: str | None) -> Corpus:
    try:
        corpus = _read(config, earlier=False, started=started is not None)
    except UserError:
        earlier = _read_as_started(config, started)
        if earlier is None:
            raise
        return earlier
    if started in (None, corpus.digest):
        return corpus
    return _read_as_started(config, started) or corpus


def _read_as_started(config: RunConfig, started: str | None) -> Corpus | None:
    """Return the corpus as earlier versions read it, if that is the one with which the run began."""
    if started is None:
        return None
    try:
        corpus = _read(config, earlier=True, started=True)
    except UserError:
        return None
    return corpus if corpus.digest == started else None


def _read(config: RunConfig, *, earlier: bool, started: bool) -> Corpus:
    scan = _Scan(config, earlier, started)
    for number, section in enumerate(config.corpus):
        scan.read(section, f"corpus.{number}.size" if len(config.corpus) > 1 else "corpus.size")
    return scan.corpus()


class _Scan:
    """Reads the sources in order, and collects what the corpus needs to know of them."""

    def __init__(self, config: RunConfig, earlier: bool, started: bool) -> None:
        self._config = config
        self._earlier = earlier
        self._started = started
        self._reserved = reserved_columns(config, started=started)
        self._size = 0  # rows read so far
        self._parts: list[Part] = []
        self._sections: list[tuple[str, int, str]] = []
        self._columns: dict[str, Column] = {}  # the extra columns of all sources read so far
        self._hashes: dict[str | None, ColumnHash] = {}  # by column; the prompts under None
        self._resolutions: dict[Resolution, Asked] = {}  # of images

    def read(self, section: CorpusConfig, size_field: str) -> None:
        """Read one section's source.

        Args:
            size_field: the config key of its size, for messages.
        """
        source = open_source(section, self._earlier, self._started)
        reading = _Reading(section, self._config, self._reserved, self._earlier)
        row_sizes = reading.row_sizes()
        files = []
        start = self._size
        for file in source.files if isinstance(source, Folder) else (source,):
            left = None if section.size is None else section.size - (self._size - start)
            if left == 0:
                break
            before = self._size
            checksums = []
            for batch in reading.batches(file, left):
                if row_sizes is not None:
                    count_sizes(batch, row_sizes, self._resolutions)
                checksums.append(self._add_to_hashes(batch))
                self._size += len(batch)
            files.append((file, self._size - before, tuple(checksums)))
        taken = self._size - start
        if not taken:
            raise UserError(f"corpus.source: {source.name}: holds no prompts; add some")
        if section.size is not None and taken < section.size:
            raise UserError(f"{size_field}: asks for {section.size} rows, but {source.name} has {taken}; lower it")
        reading.check_names(source.name)
        for file, size, sums in files:
            columns = reading.columns(file)
            self._unite(file, columns)
            subjects = reading.subjects(source.name, columns)
            questions = reading.listing("questions", source.name, columns)
            edits = reading.listing("edits", source.name, columns)
            part = Part(file, reading.selection, size, sums, columns, subjects, questions, edits, row_sizes)
            self._parts.append(part)
        self._sections.append((source.name, taken, source.form))

    def corpus(self) -> Corpus:
        """Return the corpus of all sources read."""
        digest = hashlib.sha256(self._hashes[None].hexdigest(self._size).encode())
        for name, column in sorted(self._columns.items()):
            content = self._hashes[name].hexdigest(self._size) if name in self._hashes else None
            digest.update(json.dumps([name, str(column.type), content]).encode())
        parts = [part.with_columns(converted(part.columns, self._columns)) for part in self._parts]
        schema = pa.schema([(name, column.type) for name, column in self._columns.items()])
        as_json = tuple(name for name, column in self._columns.items() if column.form == "json")
        sections = tuple(self._sections)
        sizes = self._resolutions
        return Corpus(digest.hexdigest(), self._size, schema, tuple(parts), sections, as_json, resolutions=sizes)

    def _add_to_hashes(self, batch: Batch) -> bytes:
        """Add a batch to the hashes of its columns, and return its checksum."""
        encoded = encode(batch)
        for name, values in encoded.items():
            self._hashes.setdefault(name, ColumnHash()).add(values, self._size, len(batch))
        return checksum(encoded)

    def _unite(self, source: Source, columns: dict[str, Column]) -> None:
        """Widen the corpus's columns so that they hold those of one more source."""
        for name, column in columns.items():
            known = self._columns.get(name, column)
            try:
                self._columns[name] = unite(known, column, self._earlier)
            except ValueError as error:
                raise UserError(
                    f"{source.name}: column {name!r} has no single type ({error}); make its values alike, or read it "
                    f"as text everywhere with columns: {{types: {{{name}: string}}}} in each corpus section"
                ) from error


class _Reading:
    """Reads the files of one section: selects and checks their columns, and infers the types."""

    def __init__(self, section: CorpusConfig, config: RunConfig, reserved: frozenset[str], earlier: bool) -> None:
        self.selection = Selection(section)
        self._section = section
        self._config = config
        self._reserved = reserved
        self._earlier = earlier
        self._names: dict[str, None] = {}  # the source's own columns, in the order in which they appear
        self._media: set[str] = set()
        self._types = ColumnTypes(section.columns.types, earlier)

    def batches(self, source: Source, size: int | None) -> Iterator[Batch]:
        """Yield the checked batches of one file, up to ``size`` rows, with the columns that are kept."""
        if source.columns is not None:
            self._names |= dict.fromkeys(source.columns)
            self._media |= set(source.media)
            self.check_names(source.name)
        for batch in first_rows(source.batches(), size):
            self._names |= dict.fromkeys(batch.columns)
            if source.text_cells:
                self.check_names(source.name)
            self._check_prompts(batch)
            kept = self.selection.kept(batch)
            self._types.add(kept, source)
            self._check_subjects(source, kept)
            self._check_lists(kept)
            yield self.selection.renamed(kept)

    def columns(self, source: Source) -> dict[str, Column]:
        """Return how the columns of a file are read, by the names that they are written with."""
        found = {}
        for name, column in self._types.columns(source).items():
            if self._section.columns.keeps(name):
                found[self.selection.name(name)] = column
        return found

    def check_names(self, source: str) -> None:
        """Refuse names of columns that cannot be written, or that the config mentions and the source lacks."""
        self.selection.check_given(source, [*self._names, self._section.column])
        self.selection.check_names(source, self._names, self._media, self._reserved, self._earlier)

    def row_sizes(self) -> RowSizes | None:
        """Return how a row gets the size of its images; ``None`` where no columns say it."""
        named = self._section.resolution
        if named is None:
            return None
        buckets = self._config.generators.buckets or ()
        return RowSizes(self.selection.name(named.width), self.selection.name(named.height), buckets)

    def subjects(self, source: str, columns: dict[str, Column]) -> str | None:
        """Return the written name of the column that lists the subjects.

        Raises:
            UserError: there is no such column, or it lists no texts.
        """
        name = self._section.subjects
        if name is None:
            return None
        written = self._written("subjects", name, source, columns)
        column = columns[written]
        if not lists_text(column):
            shown = "values of several types" if column.form == "json" else column.type
            raise UserError(
                f"corpus.subjects: column {name!r} of {source} holds {shown}; "
                "list the subjects as text, such as cat,dog, or as lists of text"
            )
        return written

    def listing(self, field: str, source: str, columns: dict[str, Column]) -> str | None:
        """Return the written name of the column that ``corpus.FIELD`` names: ``questions`` or ``edits``.

        Raises:
            UserError: there is no such column.
        """
        name = getattr(self._section, field)
        return None if name is None else self._written(field, name, source, columns)

    def _written(self, field: str, name: str, source: str, columns: dict[str, Column]) -> str:
        """Return the name that a column is written with which ``corpus.FIELD`` names."""
        written = self.selection.name(name)
        if written not in columns:
            has = ", ".join(self._names) or "none except the prompt"
            raise UserError(f"corpus.{field}: {source} has no column {name!r}; its columns are {has}")
        return written

    def _check_prompts(self, batch: Batch) -> None:
        limit = self._config.max_prompt_chars
        for position, prompt in enumerate(batch.prompts):
            problem = prompt_problem(prompt, limit, self._earlier)
            if problem is not None:
                raise UserError(f"{batch.where(position)}: {problem}")

    def _check_subjects(self, source: Source, batch: Batch) -> None:
        """Refuse subjects that their prompt does not name, where the method looks for them in the prompt."""
        name = self._section.subjects
        if name is None or name not in batch.columns or not self._config.optimizer.reads_attention:
            return
        if not source.text_cells and not lists_text(self._types.columns(source)[name]):
            return  # `subjects` refuses such a column once the source is read
        values: Any = batch.columns[name]
        for position, (prompt, value) in enumerate(zip(batch.prompts, values, strict=True)):
            try:
                occurrences(prompt, subject_list(value))
            except UserError as error:
                raise UserError(f"{batch.where(position)}: {error}") from error

    def _check_lists(self, batch: Batch) -> None:
        """Refuse what is no list of questions, or of edits, in the columns that are to hold them."""
        read_as: tuple[tuple[str, Callable[[object], object], str], ...] = (
            ("questions", question_list, EXAMPLE),
            ("edits", edit_list, EDITS_EXAMPLE),
        )
        for field, read, example in read_as:
            name = getattr(self._section, field)
            values: Any = () if name is None else batch.columns.get(name, ())
            for position, value in enumerate(values):
                try:
                    read(value)
                except ValueError as error:
                    where = f"{batch.where(position)}: corpus.{field}: column {name!r}"
                    raise UserError(f"{where}: {error}; write a list such as {example}") from error
