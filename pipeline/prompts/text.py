"""Prompts without columns: files with one prompt per line, and built-in grammars."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from noisesmith.pipeline.config import CorpusConfig
from noisesmith.pipeline.embedded import grammar
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.prompts.delimited import SEPARATORS
from noisesmith.pipeline.prompts.files import BOM, beginning, filled_lines
from noisesmith.pipeline.prompts.source import Batch, Column, FileSource, chunks

_PROMPT_NAMES = {"prompt", "prompts", "caption", "captions"}  # how prompt sets call their column
_NAME = re.compile(r"[\w.-]+")


class GrammarSource:
    """Prompts of a built-in grammar."""

    columns: dict[str, Column] | None = {}  # noqa: RUF012
    media: tuple[str, ...] = ()
    text_cells = False
    form = "built-in grammar"

    def __init__(self, section: CorpusConfig) -> None:
        self.section = section
        self.name = section.source
        self.grammar = self.name.removeprefix("embedded/")
        if self.grammar not in grammar.GRAMMARS:
            known = [f"embedded/{name}" for name in grammar.GRAMMARS]
            raise UserError(f"corpus.source: no grammar {self.name!r}; choose {' or '.join(known)}")

    def batches(self) -> Iterator[Batch]:
        prompts = map(str, islice(grammar.prompts(self.grammar, self.section.seed), self.section.size))
        for numbered in chunks(enumerate(prompts, 1)):
            yield _batch(self.name, "row", numbered)


class TextSource(FileSource):
    """A file with one prompt per line of UTF-8 text."""

    form = "text"

    def __init__(self, section: CorpusConfig, path: Path, name: str, earlier: bool) -> None:
        super().__init__(section, path, name, earlier)
        if not earlier:
            _refuse_table(path, name, section.column)

    def batches(self) -> Iterator[Batch]:
        lines = islice(filled_lines(self.path, self.name, self.earlier), self.size)
        for numbered in chunks(lines):
            yield _batch(self.name, "line", numbered)


def _batch(file: str, unit: str, numbered: list[tuple[int, str]]) -> Batch:
    numbers = [number for number, _ in numbered]
    texts = [text for _, text in numbered]
    return Batch(file, unit, numbers, texts, {})


def _refuse_table(path: Path, name: str, column: str) -> None:
    """Refuse a file of prompts that is a table or JSON under another name: its header would become a prompt.

    Raises:
        UserError: it is one; the sentence says why it seems so, and what to do.
    """
    start = beginning(path, name)
    lines = [line.removeprefix(BOM) for line in start.decode(errors="replace").splitlines()]
    if len(start) == 1 << 16:
        del lines[-1]  # cut short
    if not lines:
        return
    names = {*_PROMPT_NAMES, column.lower()}
    if lines[0].strip().lower() in names:
        raise UserError(
            f"{name}: line 1: {lines[0].strip()!r} seems to be a header, not a prompt; "
            "remove the line, or give the file the extension .csv"
        )
    if _is_json(lines[0]):
        raise UserError(f"{name}: line 1: holds JSON, not a prompt; give the file the extension .jsonl or .json")
    for delimiter, plural in SEPARATORS.items():
        if _is_table(lines, delimiter, names):
            extension = ".tsv" if delimiter == "\t" else ".csv"
            raise UserError(
                f"{name}: seems to be a table with columns separated by {plural}, not a list of prompts; "
                f"give the file the extension {extension}, or remove the {plural} from its first line"
            )


def _is_json(line: str) -> bool:
    text = line.strip()
    if text in ("{", "["):
        return True
    if not text.startswith(("{", "[")):
        return False
    try:
        return isinstance(json.loads(text), dict | list) and text not in ("{}", "[]")
    except (ValueError, RecursionError):
        return False


def _is_table(lines: list[str], delimiter: str, names: set[str]) -> bool:
    """Return whether the first line names columns, or tabs divide every line into as many cells."""
    try:
        rows = list(csv.reader(lines, delimiter=delimiter))
    except csv.Error:
        return False
    header = rows[0]
    if len(header) < 2:
        return False
    if len(rows) > 2:
        del rows[-1]  # a quoted cell with several lines may be cut short
    even = all(len(row) == len(header) for row in rows)
    if delimiter == "\t" and even and len(rows) > 1:
        return True
    named = any(cell.lower() in names for cell in header)
    return named and (even or all(map(_NAME.fullmatch, header)))
