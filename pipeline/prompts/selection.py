"""Which of a source's columns are written, under which names, and what is refused about their names."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

import yaml

from noisesmith.pipeline.config import CorpusConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.prompts.source import Batch

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_SURROGATE = re.compile("[\ud800-\udfff]")


class Selection:
    """The columns of one source as ``corpus.columns`` asks for them."""

    def __init__(self, section: CorpusConfig) -> None:
        self._section = section
        self._columns = section.columns

    def name(self, column: str) -> str:
        """Return the name that a column is written with."""
        return self._columns.written(column)

    def kept(self, batch: Batch) -> Batch:
        """Return a batch without the columns that are left out."""
        return batch.with_columns({name: batch.columns[name] for name in batch.columns if self._columns.keeps(name)})

    def renamed(self, batch: Batch) -> Batch:
        """Return a batch with its columns under their new names."""
        return batch.with_columns({self.name(name): values for name, values in batch.columns.items()})

    def check_given(self, source: str, names: Collection[str]) -> None:
        """Refuse a config that names columns which the source does not have.

        Args:
            source: its name, for messages. names: its columns, the prompt's included.
        """
        columns = self._columns
        fields = {"keep": columns.keep or (), "drop": columns.drop, "rename": columns.rename, "types": columns.types}
        for field, given in fields.items():
            absent = [name for name in given if name not in names]
            if absent:
                others = [name for name in names if name != self._section.column]
                raise UserError(
                    f"corpus.columns.{field}: {source} has no column {_listed(absent)}; "
                    f"its columns are {_listed(others) if others else 'none except the prompt'}"
                )

    def check_names(
        self, source: str, names: Iterable[str], media: Collection[str], reserved: Collection[str], earlier: bool
    ) -> None:
        """Refuse names that cannot be written, all in one sentence with the lines that make the source readable.

        Args:
            names: the source's own columns, the prompt's excluded. media: those that hold images or the like.
            reserved: the columns that the run writes itself.
            earlier: take names that differ from others in letter case only, as earlier versions did.
        """
        kept = [name for name in names if self._columns.keeps(name)]
        for name in kept:
            if _SURROGATE.search(self.name(name)):  # no config can name it
                raise UserError(f"{source}: column name {name!r} is empty or no plain text; rename the column")
        pictures = [name for name in kept if name in media]
        unclear = [name for name in kept if not self.name(name).strip() or _CONTROL.search(self.name(name))]
        own = [name for name in kept if self.name(name) in reserved]
        own_letters = {name.lower() for name in reserved}
        twins: list[str] = []
        if not earlier:
            own += [name for name in kept if name not in own and self.name(name).lower() in own_letters]
            letters = [self.name(name).lower() for name in kept]
            twins = [name for name in kept if letters.count(self.name(name).lower()) > 1 and name not in own]
        problems = []
        if own:
            aside = "" if all(self.name(name) in reserved for name in own) else ", letter case aside"
            problems.append(f"{_columns(own)} {_is(own)} that the run itself writes{aside}")
        if twins:
            problems.append(f"{_columns(twins)} have the same name, letter case aside")
        if unclear:
            problems.append(f"{_columns(unclear, 'column name')} {_are(unclear)} empty or no plain text")
        if pictures:
            problems.append(f"{_columns(pictures)} {'holds' if len(pictures) == 1 else 'hold'} images or other media")
        if problems:
            rename = self._new_names([*own, *twins[1:], *unclear], {*own_letters, *map(str.lower, kept)})
            raise UserError(f"{source}: {', and '.join(problems)}; {self._remedy(rename, pictures)}")

    def _new_names(self, names: Iterable[str], taken: set[str]) -> dict[str, str]:
        """Return a free name for each column that needs one."""
        found = {}
        for name in names:
            clean = re.sub(r"\W+", "_", self.name(name)).strip("_") or "column"
            free = f"corpus_{clean}"
            number = 2
            while free.lower() in taken:
                free = f"corpus_{clean}_{number}"
                number += 1
            taken.add(free.lower())
            found[name] = free
        return found

    def _remedy(self, rename: Mapping[str, str], drop: Collection[str]) -> str:
        """Return what to add to the config, merged with what it has."""
        columns: dict[str, object] = self._columns.model_dump(mode="json", exclude_defaults=True)
        if drop:
            columns["drop"] = [*self._columns.drop, *drop]
            columns["rename"] = {old: new for old, new in self._columns.rename.items() if old not in drop}
        if rename:
            columns["rename"] = {**self._columns.rename, **rename}
        if not columns.get("rename"):
            columns.pop("rename", None)
        line = yaml.safe_dump(
            {"columns": columns}, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10_000
        )
        verbs = []
        if rename:
            verbs.append("rename it" if len(rename) == 1 else "rename them")
        if drop:
            verbs.append("leave it out" if len(drop) == 1 else "leave them out")
        return f"{' and '.join(verbs)} with this line in the corpus section: {line.strip()[1:-1]}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))


def _columns(names: Sequence[str], noun: str = "column") -> str:
    if len(names) == 1:
        return f"{noun} {names[0]!r}"
    return f"{noun}s {_listed(names[:-1])} and {names[-1]!r}"


def _is(names: Sequence[str]) -> str:
    return "is one" if len(names) == 1 else "are ones"


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"
