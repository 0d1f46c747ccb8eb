"""Open a corpus: read every source once in full, to check it, count it and compute the digest."""

from __future__ import annotations

import hashlib
import json
import re

import pyarrow as pa

from noisesmith.pipeline.config import CorpusConfig, RunConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.prompts import columns as cols
from noisesmith.pipeline.prompts.corpus import Corpus, Part, first_rows, subject_list
from noisesmith.pipeline.prompts.digests import ColumnHash, checksum, encode
from noisesmith.pipeline.prompts.sources import Batch, Source, open_source
from noisesmith.pipeline.schema import reserved_columns
from noisesmith.pipeline.text.subjects import occurrences

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # tab and newline are text
_SURROGATE = re.compile("[\ud800-\udfff]")
_REFUSED = re.compile(f"{_CONTROL.pattern}|{_SURROGATE.pattern}")


def open_corpus(config: RunConfig) -> Corpus:
    """Read every source of ``config.corpus`` once, and refuse what cannot become a row.

    Raises:
        UserError: there is no source, or a source, a row or a column is unusable; the message names file and line.
    """
    if not config.corpus:
        raise UserError("corpus: is required; name a source of prompts, such as corpus.source=prompts.txt")
    scan = _Scan(config)
    for number, section in enumerate(config.corpus):
        scan.read(section, f"corpus.{number}.size" if len(config.corpus) > 1 else "corpus.size")
    return scan.corpus()


class _Scan:
    """Reads the sources in order, and collects what the corpus needs to know of them."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._reserved = reserved_columns(config)
        self._size = 0  # rows read so far
        self._parts: list[Part] = []
        self._types: dict[str, pa.DataType] = {}  # of the extra columns of all sources read so far
        self._hashes: dict[str | None, ColumnHash] = {}  # by column; the prompts under None

    def read(self, section: CorpusConfig, size_field: str) -> None:
        """Read one source.

        Args:
            size_field: the config key of its size, for messages.
        """
        source = open_source(section)
        types = dict(source.types or {})
        self._check_names(source, types)
        start = self._size
        checksums = []
        for batch in first_rows(source.batches(), section.size):
            self._check_prompts(source, batch)
            self._infer(source, batch, types)
            self._check_named(source, section, batch, types)
            checksums.append(self._add_to_hashes(batch))
            self._size += len(batch)
        taken = self._size - start
        if not taken:
            raise UserError(f"corpus.source: {source.name}: holds no prompts; add some")
        if section.size is not None and taken < section.size:
            raise UserError(f"{size_field}: asks for {section.size} rows, but {source.name} has {taken}; lower it")
        for name, kind in types.items():
            types[name] = cols.plain_type(name, kind, source.name)
            self._merge(source, self._types, name, types[name])
        _check_subjects(source, section, types)
        self._parts.append(Part(source, taken, tuple(checksums), types, section.subjects))

    def corpus(self) -> Corpus:
        """Return the corpus of all sources read."""
        digest = hashlib.sha256(self._hashes[None].hexdigest(self._size).encode())
        for name, kind in sorted(self._types.items()):
            content = self._hashes[name].hexdigest(self._size) if name in self._hashes else None
            digest.update(json.dumps([name, str(kind), content]).encode())
        return Corpus(digest.hexdigest(), self._size, pa.schema(list(self._types.items())), tuple(self._parts))

    def _add_to_hashes(self, batch: Batch) -> bytes:
        """Add a batch to the hashes of its columns, and return its checksum."""
        encoded = encode(batch)
        for name, values in encoded.items():
            self._hashes.setdefault(name, ColumnHash()).add(values, self._size, len(batch))
        return checksum(encoded)

    def _check_prompts(self, source: Source, batch: Batch) -> None:
        limit = self._config.max_prompt_chars
        for number, prompt in zip(batch.numbers, batch.prompts, strict=True):
            problem = prompt_problem(prompt, limit)
            if problem is not None:
                raise UserError(f"{source.name}: {source.unit} {number}: {problem}")

    def _infer(self, source: Source, batch: Batch, types: dict[str, pa.DataType]) -> None:
        """Widen the types of a source's columns so that they hold this batch too, where the source declares none."""
        if source.types is not None:
            return
        for name, values in batch.columns.items():
            if source.text_cells:
                kind = cols.infer_cells(values)
                types[name] = cols.merge_cells(types.get(name, kind), kind)
                continue
            try:
                kind = cols.infer_values(values)
            except ValueError as error:
                raise _mixed(source, name, error) from error
            self._merge(source, types, name, kind)
        self._check_names(source, types)

    def _merge(self, source: Source, types: dict[str, pa.DataType], name: str, kind: pa.DataType) -> None:
        try:
            types[name] = cols.merge(types.get(name, kind), kind)
        except ValueError as error:
            raise _mixed(source, name, error) from error

    def _check_names(self, source: Source, types: dict[str, pa.DataType]) -> None:
        for name in types:
            if not name.strip() or _REFUSED.search(name):
                raise UserError(f"{source.name}: column name {name!r} is empty or no plain text; rename the column")
            if name in self._reserved:
                raise UserError(f"{source.name}: column {name!r} is one that the run itself writes; rename it")

    def _check_named(self, source: Source, section: CorpusConfig, batch: Batch, types: dict[str, pa.DataType]) -> None:
        """Refuse subjects that their prompt does not name, where the method looks for them in the prompt."""
        column = section.subjects
        if column is None or column not in batch.columns or not self._config.optimizer.reads_attention:
            return
        if not source.text_cells and not _lists_text(types[column]):
            return  # _check_subjects refuses such a column once the source is read
        for number, prompt, value in zip(batch.numbers, batch.prompts, batch.columns[column], strict=True):
            try:
                occurrences(prompt, subject_list(value))
            except UserError as error:
                raise UserError(f"{source.name}: {source.unit} {number}: {error}") from error


def _mixed(source: Source, name: str, error: ValueError) -> UserError:
    return UserError(f"{source.name}: column {name!r} has no single type ({error}); make its values alike")


def _check_subjects(source: Source, section: CorpusConfig, types: dict[str, pa.DataType]) -> None:
    """Refuse a column of subjects that is not there, or that lists no texts."""
    if section.subjects is None:
        return
    kind = types.get(section.subjects)
    if kind is None:
        has = ", ".join(types) or "none except the prompt"
        raise UserError(f"corpus.subjects: {source.name} has no column {section.subjects!r}; its columns are {has}")
    if not _lists_text(kind):
        raise UserError(
            f"corpus.subjects: column {section.subjects!r} of {source.name} holds {kind}; "
            "list the subjects as text, such as cat,dog, or as lists of text"
        )


def _lists_text(kind: pa.DataType) -> bool:
    text = kind.value_type if pa.types.is_list(kind) else kind
    return bool(pa.types.is_string(text) or pa.types.is_null(text))


def prompt_problem(prompt: object, limit: int) -> str | None:
    """Return why a value cannot be a prompt, with the remedy, or ``None`` for a text of 1 to ``limit`` characters."""
    if prompt is None:
        return "has no prompt; write one or remove the row"
    if not isinstance(prompt, str):
        return f"the prompt is {json.dumps(prompt, default=str)[:40]}, but must be text"
    if not prompt.strip():
        return "the prompt is empty; write one or remove the row"
    if len(prompt) > limit:
        return f"the prompt has {len(prompt)} characters, above max_prompt_chars={limit}; shorten it or raise the limit"
    if not _REFUSED.search(prompt):
        return None
    control = _CONTROL.search(prompt)
    if control:
        return f"the prompt holds the control character U+{ord(control[0]):04X}; remove it"
    return "the prompt holds half a surrogate pair, which is not valid Unicode; remove it"
