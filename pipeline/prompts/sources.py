"""Finds the kind of source that a corpus section names, and opens it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from noisesmith.pipeline.config import CorpusConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.prompts.files import COMPRESSED, refuse_other_content
from noisesmith.pipeline.prompts.folder import Folder, dataset_source
from noisesmith.pipeline.prompts.source import Source
from noisesmith.pipeline.prompts.text import GrammarSource, TextSource
from noisesmith.pipeline.storage.home import user_path

_FILE_NAME = re.compile(r".*\.[A-Za-z][A-Za-z0-9]*")
_UNUSED = {
    "config": "chooses among the configurations of a dataset, but {} has none",
    "split": "chooses among the splits of a dataset, but {} has none",
    "revision": "chooses among the revisions of a dataset on the Hub, but {} is none",
    "seed": "is that of a built-in grammar, but the rows of {} are taken in their order",
}
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def open_source(section: CorpusConfig, earlier: bool = False, started: bool = False) -> Source | Folder:
    """Return the source, or the folder of sources, that a section names. Only what determines its kind is read.

    Args:
        earlier: read it as earlier versions did, for a run that one of them began.
        started: whether the run exists, so that fields which say nothing of such a source can no longer be removed.

    Raises:
        UserError: there is no such source, its kind is unknown, or the section has a field that says nothing of it.
    """

    def refuse(*fields: str) -> None:
        for field in fields:
            if not started and getattr(section, field) != CorpusConfig.model_fields[field].default:
                raise UserError(f"corpus.{field}: {_UNUSED[field].format(section.source)}; remove it")

    def open_file(path: Path, name: str) -> Source:
        return _open_file(section, path, name, earlier)

    name = section.source
    if name.startswith("embedded/"):
        refuse("config", "split", "revision")
        return GrammarSource(section)
    try:
        path = user_path(name)
        exists = path.exists()
        is_dir = path.is_dir()
        is_file = path.is_file()
    except OSError as error:  # a name too long
        raise UserError(f"corpus.source: {name}: cannot be opened ({error}); check the path") from error
    if is_dir:
        refuse("revision", "seed", *(["split"] if (path / "state.json").exists() else []))  # that of one saved split
        return dataset_source(section, path, open_file, earlier)
    if not exists:
        if _HUB_NAME.fullmatch(name) and not _FILE_NAME.fullmatch(name):
            refuse("seed")
            return dataset_source(section, None, open_file, earlier)
        raise UserError(f"corpus.source: {name}: no such file; check the path, which starts at {Path.cwd()}")
    if not is_file:
        raise UserError(f"corpus.source: {name}: is not a regular file; copy its prompts into one, it is read twice")
    refuse("config", "split", "revision", "seed")
    return open_file(path, name)


def _open_file(section: CorpusConfig, path: Path, name: str, earlier: bool) -> Source:
    """Open a file by its extension; behind it there may be one of a compressed file, as in ``prompts.csv.gz``."""
    from noisesmith.pipeline.prompts.arrow import ParquetSource
    from noisesmith.pipeline.prompts.delimited import DelimitedSource
    from noisesmith.pipeline.prompts.json_source import JsonSource

    kinds: dict[str, Callable[[CorpusConfig, Path, str, bool], Source]] = {
        ".txt": TextSource,
        ".jsonl": JsonSource,
        ".ndjson": JsonSource,
        ".json": JsonSource,
        ".csv": DelimitedSource,
        ".tsv": DelimitedSource,
        ".parquet": ParquetSource,
    }
    extensions = [suffix.lower() for suffix in path.suffixes]
    if len(extensions) > 1 and extensions[-1] in COMPRESSED:
        del extensions[-1]
    kind = kinds.get(extensions[-1]) if extensions else None
    if kind is None:
        known = f"{', '.join(sorted(kinds))}, also compressed ({', '.join(COMPRESSED)})"
        raise UserError(f"corpus.source: {name}: has no known extension; use one of {known}")
    if not earlier:
        refuse_other_content(path, name)
    return kind(section, path, name, earlier)
