"""Where prompts come from, and which of a corpus's other columns are written."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, TypeAlias

from pydantic import Field, model_validator

from noisesmith.pipeline.config.section import Section

_SURROGATE = re.compile("[\ud800-\udfff]")
ColumnType = Literal["string", "int64", "float64", "bool"]
Resolution: TypeAlias = tuple[int, int]  # width and height of an image, in pixels
MIN_SIDE = 8
MAX_SIDE = 16_384


def _repeated(names: Iterable[str]) -> list[str]:
    seen: set[str] = set()
    repeated = []
    for name in names:
        if name in seen:
            repeated.append(name)
        seen.add(name)
    return repeated


class ColumnsConfig(Section):
    """What becomes of a corpus's columns. All names are those of the source; the prompt's column is not among them."""

    keep: tuple[str, ...] | None = Field(None, description="the columns to write; all when absent")
    drop: tuple[str, ...] = Field((), description="columns to leave out")
    rename: dict[str, str] = Field({}, description="column → the name that it is written with")
    types: dict[str, ColumnType] = Field({}, description="column → its type, where the values should not decide")

    @model_validator(mode="after")
    def _agree(self) -> ColumnsConfig:
        names_given = [*(self.keep or ()), *self.drop, *self.rename, *self.rename.values(), *self.types]
        if any(_SURROGATE.search(name) for name in names_given):
            raise ValueError("a name holds half a surrogate pair, which is not valid Unicode; remove it")
        for name in _repeated(self.rename.values()):
            raise ValueError(f"rename gives the name {name!r} twice; choose another")
        for field, names in (("rename", self.rename), ("types", self.types)):
            for name in names:
                if not self.keeps(name):
                    raise ValueError(f"{field} names {name!r}, which keep or drop leaves out; remove it from one")
        return self

    def keeps(self, name: str) -> bool:
        """Return whether a column of this name is written."""
        return name not in self.drop and (self.keep is None or name in self.keep)

    def written(self, name: str) -> str:
        """Return the name that a column is written with."""
        return self.rename.get(name, name)


class ResolutionConfig(Section):
    """The columns that hold the size of each row's image, in pixels."""

    width: str = Field(min_length=1, description="column that holds the image's width")
    height: str = Field(min_length=1, description="column that holds the image's height")


class CorpusConfig(Section):
    """Where prompts come from: a file, a data set by name or directory (``datasets``), or a built-in grammar."""

    source: str = Field(min_length=1, description="path, dataset name, or embedded/simple, embedded/complex")
    size: int | None = Field(None, ge=1, le=100_000_000, description="rows to take; required for grammars")
    seed: int = Field(0, ge=0, description="seed of a grammar")
    column: str = Field("prompt", min_length=1, description="column that holds the prompt")
    columns: ColumnsConfig = Field(ColumnsConfig(), description="which other columns are written, and how")
    subjects: str | None = Field(
        None,
        min_length=1,
        description="column that lists the prompt's subjects; when absent, they are found in the prompt",
    )
    questions: str | None = Field(
        None,
        min_length=1,
        description="column that lists questions about the prompt's parts, each with its answer",
    )
    edits: str | None = Field(
        None,
        min_length=1,
        description="column that lists prompts which images of the prompt do not show, for the readout contrastive",
    )
    resolution: ResolutionConfig | None = Field(
        None, description="columns with the size of each row's image; all images have the generator's when absent"
    )
    language: str = Field(
        "en", pattern=r"^[a-z]{2,3}$", description="ISO 639 code of the prompts' language, for the dataset card"
    )
    split: str = Field("train", min_length=1, description="split of a datasets source")
    revision: str | None = Field(None, description="revision of a datasets source")
    config: str | None = Field(None, min_length=1, description="configuration of a datasets source that has several")

    @model_validator(mode="after")
    def _grammar_has_size(self) -> CorpusConfig:
        if self.source.startswith("embedded/") and self.size is None:
            raise ValueError(f"{self.source} is endless, so it needs a size such as size: 100")
        return self

    @model_validator(mode="after")
    def _columns_are_others(self) -> CorpusConfig:
        """Refuse what would leave out or rename the prompt, or leave out a column that another field names."""
        columns = self.columns
        for field, names in (("drop", columns.drop), ("rename", columns.rename), ("types", columns.types)):
            if self.column in names:
                raise ValueError(f"columns.{field} names {self.column!r}, which is the prompt; remove it there")
        for what in ("subjects", "questions", "edits"):
            column = getattr(self, what)
            if column is not None and not columns.keeps(column):
                raise ValueError(f"columns leaves out {column!r}, which lists the {what}; keep that column")
        if self.resolution is not None:
            for side in ("width", "height"):
                column = getattr(self.resolution, side)
                if column == self.column:
                    raise ValueError(f"resolution.{side} names {column!r}, which is the prompt; name another column")
                if not columns.keeps(column):
                    raise ValueError(f"columns leaves out {column!r}, which resolution.{side} names; keep that column")
        return self
