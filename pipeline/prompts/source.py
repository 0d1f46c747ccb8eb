"""What every source of a corpus provides: columnar batches, any number of times, and always the same ones."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from noisesmith.pipeline.config import CorpusConfig

T = TypeVar("T")
BATCH = 1024


@dataclass(frozen=True)
class Batch:
    """Consecutive rows of a source: unchecked prompts and extra columns.

    ``numbers`` count the rows for messages, in the unit ``unit``, from 1 in each file ``file``.
    """

    file: str
    unit: str
    numbers: Sequence[int]
    prompts: Sequence[Any]
    columns: Mapping[str, Sequence[Any]]

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, part: slice) -> Batch:
        columns = {name: values[part] for name, values in self.columns.items()}
        return Batch(self.file, self.unit, self.numbers[part], self.prompts[part], columns)

    def take(self, positions: Sequence[int]) -> Batch:
        """Return the rows at these positions, in this order."""
        columns = {}
        for name, values in self.columns.items():
            columns[name] = [values[position] for position in positions]
        numbers = [self.numbers[position] for position in positions]
        prompts = [self.prompts[position] for position in positions]
        return Batch(self.file, self.unit, numbers, prompts, columns)

    def with_columns(self, columns: Mapping[str, Sequence[Any]]) -> Batch:
        """Return the same rows with other columns."""
        return Batch(self.file, self.unit, self.numbers, self.prompts, columns)

    def where(self, position: int) -> str:
        """Return where a row stands, for the beginning of a message."""
        return f"{self.file}: {self.unit} {self.numbers[position]}"


@dataclass(frozen=True)
class Column:
    """How a column's raw values become those of the rows.

    Attributes:
        type: their Arrow type.
        convert: applied to each value that is not null; ``None`` leaves the values as they are.
        form: ``cells`` for the text of a table, ``json`` for values written as JSON text, else ``plain``.
        wide: whether integers are among the values that no float64 holds exactly.
    """

    type: pa.DataType
    convert: Callable[[Any], Any] | None = None
    form: str = "plain"
    wide: bool = False


class Source(Protocol):
    """Where prompts come from.

    ``form`` describes the format for ``plan``. ``columns`` are the extra columns that the source declares, by name, or
    ``None`` where their types are inferred from the values; ``media`` names those that hold images or the like.
    ``text_cells`` means that all values are text, and that an empty one is null.
    """

    name: str
    columns: dict[str, Column] | None
    media: tuple[str, ...]
    text_cells: bool

    @property
    def form(self) -> str: ...

    def batches(self) -> Iterator[Batch]: ...


class FileSource:
    """The base of sources that are text files.

    ``earlier`` asks for the reading of earlier versions, for runs that one of them began.
    """

    columns: dict[str, Column] | None = None
    media: tuple[str, ...] = ()
    text_cells = False
    form = ""

    def __init__(self, section: CorpusConfig, path: Path, name: str, earlier: bool) -> None:
        self.name = name
        self.path = path
        self.column = section.column
        self.size = section.size
        self.earlier = earlier


def chunks(items: Iterable[T]) -> Iterator[list[T]]:
    """Yield the items in lists of one batch each."""
    items = iter(items)
    while chunk := list(islice(items, BATCH)):
        yield chunk


def missing_column(column: str, present: Iterable[str]) -> str:
    """Return half a sentence on an absent prompt column: which columns there are, and which one may be meant."""
    names = list(present)
    if not names:
        return f"has no column {column!r}, nor any other"
    hint = "name the prompts' column in corpus.column"
    close = difflib.get_close_matches(column, names, n=1)
    if close:
        hint = f"did you mean corpus.column={close[0]}?"
    shown = ", ".join(map(repr, names[:12]))
    if len(names) > 12:
        shown += ", …"
    return f"has no column {column!r} but {shown}; {hint}"
