"""What the ``datasets`` library opens: folders of files, data sets on disk, and names on the Hub.

The library decides which files of a folder make up a split. Tables and JSON files are then read as single files are, so
that a text such as 007 or 2024-01-01 keeps its form, and columns may be null in some of the files.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any

from noisesmith.pipeline.config import CorpusConfig
from noisesmith.pipeline.errors import UserError, reason
from noisesmith.pipeline.prompts.arrow import DatasetSource
from noisesmith.pipeline.prompts.source import Source

MAX_FILES = 10_000  # in a directory that is opened as a data set
_READ_HERE = ("csv", "json", "parquet")  # the library's names of formats that are read as single files are
_OF_THE_FILES = {"name", "version", "data_dir", "data_files", "description", "sep"}  # say nothing on how to read them
_PATTERNS = ("*", "?", "[", "]", "::", "$")  # what `datasets` and fsspec do not read as part of a name
OpenFile = Callable[[Path, str], Source]


@dataclass(frozen=True)
class Folder:
    """Several files of one folder, in order. Their columns are united."""

    name: str
    files: tuple[Source, ...]

    @property
    def form(self) -> str:
        forms = sorted({file.form for file in self.files})
        count = len(self.files)
        return f"{count} {'file' if count == 1 else 'files'}: {' and '.join(forms)}"


def dataset_source(
    section: CorpusConfig, directory: Path | None, open_file: OpenFile, earlier: bool
) -> Source | Folder:
    """Open a directory written by ``save_to_disk``, or any directory or Hub name that ``load_dataset`` opens.

    Args:
        directory: absent for a Hub name.
        open_file: opens one file of a folder, given its path and its name for messages.
        earlier: let the library read all files, as earlier versions did.

    Raises:
        UserError: it cannot be opened, or has no such split or configuration.
    """
    import datasets
    import huggingface_hub
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES as FORMATS

    if directory is not None:
        files = (name for _, _, names in os.walk(directory) for name in names)
        if next(islice(files, MAX_FILES, None), None) is not None:  # the library looks at each file: under / for hours
            raise UserError(
                f"corpus.source: {section.source}: holds more than {MAX_FILES} files; give the folder of one dataset"
            )
    if directory is None and section.source in FORMATS:  # the library reads all such files of the working directory
        raise UserError(f"corpus.source: {section.source} is a file format; give a file, a directory or a Hub name")
    for library in (datasets, huggingface_hub):
        library.utils.logging.set_verbosity(logging.CRITICAL)  # what they log is in the error too
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    if directory is None:
        data = _guarded(
            section,
            section.source,
            lambda: datasets.load_dataset(
                section.source, section.config, split=section.split, revision=section.revision
            ),
        )
        return DatasetSource(section, data, earlier)
    if (directory / "state.json").exists() or (directory / "dataset_dict.json").exists():
        return DatasetSource(section, _from_disk(section, directory), earlier)
    with _without(_PATTERNS, directory) as opened:
        return _folder(section, directory, opened, open_file, earlier)


def _from_disk(section: CorpusConfig, directory: Path) -> Any:
    """Return the split of a directory that ``save_to_disk`` wrote."""
    import datasets

    if section.config is not None:
        raise UserError(f"corpus.config: {section.source} has no configurations; remove corpus.config")
    with _without(("::",), directory) as opened:  # the files stay open, also where the links to them are gone
        data = _guarded(section, None, lambda: datasets.load_from_disk(str(opened.absolute())))
    if isinstance(data, dict):
        _check_split(section, data)
        return data[section.split]
    return data


def _folder(
    section: CorpusConfig, directory: Path, opened: Path, open_file: OpenFile, earlier: bool
) -> Source | Folder:
    """Open a folder of files.

    Args:
        opened: the folder, or one with links to its files if the library cannot open its path.
    """
    import datasets

    path = str(opened.absolute())
    if not earlier:
        builder = _guarded(section, path, lambda: datasets.load_dataset_builder(path, section.config))
        splits = builder.config.data_files or {}
        _check_split(section, splits)
        if _is_read_here(builder):
            sources = []
            for file in splits[section.split]:
                inside = Path(file).relative_to(opened.resolve())
                sources.append(open_file(directory / inside, str(Path(section.source) / inside)))
            return Folder(section.source, tuple(sources))
    data = _guarded(section, path, lambda: datasets.load_dataset(path, section.config, split=section.split))
    return DatasetSource(section, data, earlier)


def _is_read_here(builder: Any) -> bool:
    """Return whether the files of a folder are such as are read here, and its card does not say how to read them."""
    if type(builder).__module__.rpartition(".")[2] not in _READ_HERE or builder.info.features is not None:
        return False
    plain = type(builder.config)()
    for field in fields(plain):
        if field.name not in _OF_THE_FILES and getattr(builder.config, field.name) != getattr(plain, field.name):
            return False
    return True


def _check_split(section: CorpusConfig, splits: Any) -> None:
    if section.split not in splits:
        found = ", ".join(map(str, splits))
        raise UserError(f"corpus.split: {section.source} has no split {section.split!r} but {found}")


@contextmanager
def _without(patterns: Iterable[str], directory: Path) -> Iterator[Path]:
    """Yield a directory of the same files whose path holds none of these patterns.

    It is the directory itself where that can be, else a temporary one with links.
    """
    path = str(directory.resolve())
    if not any(pattern in path for pattern in patterns):
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix="noisesmith-corpus-") as name:
        links = Path(name).resolve() / "corpus"
        for folder, _, files in os.walk(path):
            inside = links / Path(folder).relative_to(path)
            inside.mkdir(parents=True)
            for file in files:
                (inside / file).symlink_to(Path(folder, file))
        yield links


def _guarded(section: CorpusConfig, location: str | None, load: Callable[[], Any]) -> Any:
    """Return what the library loads.

    Args:
        location: the path or name whose configurations are listed if one must be chosen.

    Raises:
        UserError: it cannot be loaded.
    """
    try:
        return load()
    except Exception as error:  # the library raises dozens of unrelated classes, and no code of ours runs in here
        if location is not None:
            _refuse_choice(section, location)
        why = reason(error.__cause__ or error)
        raise UserError(
            f"corpus.source: {section.source}: cannot be opened as a dataset ({why}); "
            "check the name, corpus.split and the network, or give a file"
        ) from error


def _refuse_choice(section: CorpusConfig, location: str) -> None:
    """Refuse a configuration or split that is not there, or that must be chosen, with the names of those that are."""
    import datasets

    try:
        configs = datasets.get_dataset_config_names(location, revision=section.revision)
    except Exception:  # noqa: BLE001 - as in _guarded; the first error says what is wrong
        return
    if section.config not in configs and (section.config is not None or len(configs) > 1):
        given = "has several configurations" if section.config is None else f"has no configuration {section.config!r}"
        raise UserError(
            f"corpus.config: {section.source} {given}; choose one of {', '.join(configs)}, "
            f"such as corpus.config={configs[0]}"
        )
    try:
        splits = datasets.get_dataset_split_names(location, section.config, revision=section.revision)
    except Exception:  # noqa: BLE001
        return
    _check_split(section, splits)
