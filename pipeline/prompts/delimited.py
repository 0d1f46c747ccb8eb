"""Tables as text: CSV, and the same with tabs, semicolons or vertical bars between the cells."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from noisesmith.pipeline.config import CorpusConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.prompts.files import BOM, MAX_LINE, numbered_lines
from noisesmith.pipeline.prompts.source import BATCH, Batch, FileSource, missing_column

SEPARATORS = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "vertical bars"}
_HINT = re.compile('"?sep=(.)"?')  # a first line by which Excel is told the delimiter


class DelimitedSource(FileSource):
    """UTF-8 text with a header and one record per line; a quoted cell may span several lines."""

    text_cells = True

    def __init__(self, section: CorpusConfig, path: Path, name: str, earlier: bool) -> None:
        super().__init__(section, path, name, earlier)
        self._has_hint = False
        csv.field_size_limit(MAX_LINE)  # the default, 128 KiB, is less than a thumbnail as text
        self.delimiter = "," if earlier else self._sniffed("\t" if ".tsv" in name.lower() else ",")
        self.quoting = csv.QUOTE_MINIMAL
        self.form = f"table separated by {SEPARATORS[self.delimiter]}"
        if self.delimiter == "\t" and not self._is_even(csv.QUOTE_MINIMAL) and self._is_even(csv.QUOTE_NONE):
            self.quoting = csv.QUOTE_NONE
            self.form += ", its quotes are text"

    def batches(self) -> Iterator[Batch]:
        records = self._records()
        header = self._header(records)
        if self.column not in header:
            raise UserError(f"{self.name}: {missing_column(self.column, header)}")
        numbers: list[int] = []
        cells: list[list[str]] = []
        for number, record in islice(records, self.size):
            if len(record) != len(header):
                raise UserError(
                    f"{self.name}: line {number}: has {_count(len(record), 'cell')} where the header has "
                    f"{len(header)}; put quotes around text that holds {SEPARATORS[self.delimiter]}"
                )
            if record == header and not self.earlier:
                raise UserError(f"{self.name}: line {number}: repeats the header; remove the line")
            numbers.append(number)
            cells.append(record)
            if len(cells) == BATCH:
                yield self._batch(header, numbers, cells)
                numbers = []
                cells = []
        if cells:
            yield self._batch(header, numbers, cells)

    def _batch(self, header: list[str], numbers: list[int], cells: list[list[str]]) -> Batch:
        columns = dict(zip(header, zip(*cells, strict=True), strict=True))
        prompts = columns.pop(self.column)
        if not self.earlier:
            prompts = tuple(prompt.replace("\r\n", "\n") for prompt in prompts)
        return Batch(self.name, "line", numbers, prompts, dict(columns))

    def _header(self, records: Iterator[tuple[int, list[str]]]) -> list[str]:
        """Return the names of the columns. One without a name is called as pandas calls it."""
        if self._has_hint:
            next(records)
        _, header = next(records, (0, []))
        if not header:
            raise UserError(f"{self.name}: has no header line; its first line must name the columns")
        names = []
        for position, name in enumerate(header):
            names.append(name if name.strip() or self.earlier else f"Unnamed: {position}")
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"{self.name}: names column {name!r} twice; rename one")
        return names

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """Yield records with the number of their last line, without blank lines at the end; others are refused."""
        blank = None
        for number, record in self._parsed(self.quoting):
            if not record:
                blank = blank or number
            elif blank:
                raise UserError(f"{self.name}: line {blank}: is blank, so its prompt is empty; remove the line")
            else:
                yield number, record

    def _parsed(self, quoting: int) -> Iterator[tuple[int, list[str]]]:
        """Yield every record, blank ones too, with the number of its last line."""
        lines = _Lines(self)
        reader = csv.reader(lines, delimiter=self.delimiter, quoting=quoting, strict=True)  # type: ignore[arg-type]
        try:
            for record in reader:
                lines.record_begins = True
                yield reader.line_num, record
        except csv.Error as error:
            problem = f"is not valid CSV ({error}); check its quotes"
            if "field limit" in str(error):
                problem = f"has a cell of more than {MAX_LINE} characters, or a quote that is not closed"
            raise UserError(f"{self.name}: line {reader.line_num}: {problem}") from error

    def _sniffed(self, usual: str) -> str:
        """Return what separates the cells: the usual delimiter where it finds the prompt's column in the header."""
        _, header = next(numbered_lines(self.path, self.name), (0, ""))
        header = header.removeprefix(BOM).strip("\r\n")
        hint = _HINT.fullmatch(header)
        if hint is not None and hint[1] in SEPARATORS:
            self._has_hint = True
            return hint[1]
        try:
            cells = next(csv.reader([header], delimiter=usual), [])
            if len(cells) > 1 and self.column in cells:
                return usual
            return csv.Sniffer().sniff(header, "".join(SEPARATORS)).delimiter
        except csv.Error:
            return usual

    def _is_even(self, quoting: int) -> bool:
        """Return whether every record has as many cells as the header when quotes are read in this way."""
        size = None if self.size is None else self.size + 1
        try:
            lengths = {len(record) for _, record in islice(self._parsed(quoting), size) if record}
        except UserError:
            return False
        return len(lengths) == 1


class _Lines:
    """The lines of a table for ``csv.reader``, which takes the next one only when it needs it.

    Lines keep their ends, and within a quoted cell also a byte order mark. Where a record begins, that is removed.
    """

    def __init__(self, source: DelimitedSource) -> None:
        self.record_begins = True
        self._earlier = source.earlier
        self._lines = numbered_lines(source.path, source.name)

    def __iter__(self) -> Iterator[str]:
        for number, line in self._lines:
            text = line
            if self._earlier:
                text = line.removesuffix("\n").removesuffix("\r") + "\n"
            if number == 1 or (self.record_begins and not self._earlier):
                text = text.removeprefix(BOM)
            self.record_begins = False
            yield text


def _count(number: int, noun: str) -> str:
    return f"1 {noun}" if number == 1 else f"{number} {noun}s"
