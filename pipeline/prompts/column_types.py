"""Finds how each column of a source is read, and unites the columns of several sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa

from noisesmith.pipeline.config.corpus import ColumnType
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.prompts import cells, earlier
from noisesmith.pipeline.prompts.columns import infer_values, is_wide, merge, plain_type, rounds
from noisesmith.pipeline.prompts.source import Batch, Column, Source
from noisesmith.pipeline.prompts.values import Convert, chosen_type, json_text

_JSON = Column(pa.string(), json_text, form="json")


class ColumnTypes:
    """The types of one section's columns: chosen in the config, declared by the source, or found in the values."""

    def __init__(self, chosen: Mapping[str, ColumnType], as_earlier: bool) -> None:
        self._earlier = as_earlier
        self._cells = earlier if as_earlier else cells
        self._chosen: dict[str, Column] = {}
        for name, type_name in chosen.items():
            kind, convert = chosen_type(type_name)
            self._chosen[name] = Column(kind, convert)
        self._names: dict[str, None] = {}  # of the source, in the order in which they appear
        self._found: dict[str, Column] = {}  # by these names, where the source declares no types
        self._wide: set[str] = set()

    def add(self, batch: Batch, source: Source) -> None:
        """Widen the types so that they hold the values of one more batch.

        Raises:
            UserError: a value does not fit the type that the config gives its column, or is no valid Unicode.
        """
        for name, values in batch.columns.items():
            self._names[name] = None
            if name in self._chosen:
                self._check_chosen(batch, name, values, source.text_cells)
                continue
            if source.text_cells:
                kind = self._cells.infer_cells(values)
                known = self._found.get(name)
                self._found[name] = Column(self._cells.merge_cells(known.type, kind) if known else kind, form="cells")
                continue
            if source.columns is None:
                self._found[name] = self._with_json_values(batch, name, values)
            column = self._found.get(name) or (source.columns or {})[name]
            if "int64" in str(column.type) and name not in self._wide and any(map(is_wide, values)):
                self._wide.add(name)

    def columns(self, source: Source) -> dict[str, Column]:
        """Return how each column of a file is read, by the names of the source."""
        found = {}
        for name in self._names if source.columns is None else source.columns:
            found[name] = self._chosen.get(name) or self._column(name, source)
        return found

    def _column(self, name: str, source: Source) -> Column:
        wide = name in self._wide
        if source.columns is not None:
            return replace(source.columns[name], wide=wide)
        column = self._found[name]
        if column.form == "cells":
            parser = self._cells.cell_parser(column.type)
            return Column(column.type, parser, "plain" if self._earlier else "cells")
        plain = plain_type(column.type)
        if plain is None or column.form == "json":
            return _JSON
        return Column(plain, wide=wide)

    def _with_json_values(self, batch: Batch, name: str, values: Sequence[Any]) -> Column:
        """Return how a column is read that also holds these JSON values: as JSON text where no type holds all."""
        known = self._found.get(name)
        if known is not None and known.form == "json":
            return known
        infer = earlier.infer_json if self._earlier else infer_values
        try:
            kind = infer(values)
            merged = kind if known is None else merge(known.type, kind)
        except UnicodeEncodeError as error:
            raise UserError(
                f"{batch.file}: column {name!r} holds half a surrogate pair, which is not valid Unicode; remove it"
            ) from error
        except ValueError as error:
            if self._earlier:
                raise UserError(f"{batch.file}: column {name!r} has no single type ({error})") from error
            return _JSON
        if not self._earlier:
            wide = name in self._wide and known is not None and rounds(known.type, merged)
            if wide or (rounds(kind, merged) and any(map(is_wide, values))):
                return _JSON
        return Column(merged)

    def _check_chosen(self, batch: Batch, name: str, values: Sequence[Any], text_cells: bool) -> None:
        column = self._chosen[name]
        assert column.convert is not None
        for position, value in enumerate(values):
            if value is None or (text_cells and not value):
                continue
            try:
                column.convert(value)
            except (ValueError, TypeError, OverflowError) as error:
                raise UserError(
                    f"{batch.where(position)}: column {name!r} holds {str(value)[:40]!r}, which is no {column.type} as "
                    "corpus.columns.types asks; correct it, or give the column another type"
                ) from error


def unite(first: Column, second: Column, as_earlier: bool) -> Column:
    """Return the column of a corpus that holds the values of two sources.

    Raises:
        ValueError: no type holds both exactly.
    """
    if "json" in (first.form, second.form):
        return _JSON
    if first.form == second.form == "cells":
        return Column(cells.merge_cells(first.type, second.type), form="cells", wide=first.wide or second.wide)
    merged = merge(first.type, second.type)
    for column in (first, second):
        if column.wide and rounds(column.type, merged) and not as_earlier:
            raise ValueError("integers beyond 2⁵³ in one place and float64 in another")
    return Column(merged, wide=first.wide or second.wide)


def converted(part: Mapping[str, Column], corpus: Mapping[str, Column]) -> dict[str, Column]:
    """Return how the columns of one source are read into the columns of the whole corpus."""
    found = {}
    for name, column in part.items():
        united = corpus[name]
        convert = column.convert
        if united.form == "json" and column.form != "json":
            convert = partial(_to_json, column.convert)
        elif united.form == "cells":
            convert = cells.cell_parser(united.type)
        found[name] = replace(column, convert=convert)
    return found


def _to_json(convert: Convert | None, value: object) -> str:
    return json_text(value if convert is None else convert(value))


def lists_text(column: Column) -> bool:
    """Return whether a column can list subjects: as text, or as lists of text."""
    text = column.type.value_type if pa.types.is_list(column.type) else column.type
    return column.form != "json" and bool(pa.types.is_string(text) or pa.types.is_null(text))
