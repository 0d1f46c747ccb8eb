"""Looks at stored weight files without loading them: whose they are, whether all are there, and are weights."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PICKLED = (".bin", ".ckpt", ".pt", ".pth")
_POINTER = b"version https://git-lfs.github.com/spec/"  # what a clone without Git LFS has in place of a large file
_INDEX = ".index."
_SHARD = "-of-"


@dataclass(frozen=True)
class WeightsAlone:
    """A checkpoint that was published without a ``config.json`` that names its class.

    Attributes:
        class_name: the class that it is taken for.
        hub_ids: where it was published.
        names: those that its file of weights may have, without the suffix; the first that is there counts.
    """

    class_name: str
    hub_ids: tuple[str, ...]
    names: tuple[str, ...]


def known_without(index_file: str, location: str, alone: Sequence[WeightsAlone]) -> WeightsAlone | None:
    """The checkpoint that a Hub id, or a folder without the index file, is known as."""
    if not os.path.isdir(location):
        return next((one for one in alone if location in one.hub_ids), None)
    try:
        files = list(Path(location).iterdir())
    except OSError:  # whoever reads the index file will say why
        return None
    if any(file.name == index_file for file in files):
        return None
    stored = {file.stem for file in files if file.suffix in (".safetensors", *PICKLED)}
    return next((one for one in alone if stored.intersection(one.names)), None)


def weights_problem(folder: Path, names: Sequence[str]) -> str | None:
    """Return what is wrong with weight files of one model, or ``None``.

    Args:
        names: the files in ``folder`` that would be loaded: one, or the shards of one model and their index.
    """
    whole = [name for name in names if _INDEX not in name and _SHARD not in name]
    indexes = [name for name in names if _INDEX in name]
    if whole:
        files = whole
    elif indexes:
        files = _shards(folder / indexes[0])
        missing = [name for name in files if not (folder / name).is_file()]
        if missing:
            return f"{indexes[0]} names {len(files)} files, of which {len(missing)} are missing, first {missing[0]}"
        if not files:
            return f"{indexes[0]} is no index of weights"
    else:
        return f"{names[0]} is a shard, and its index is missing"
    for name in files:
        if is_pointer(folder / name):
            return f"{name} is a Git LFS pointer and no weights (`git lfs pull` fetches them)"
    return None


def is_pointer(path: Path) -> bool:
    """Whether a file is what Git LFS leaves in the place of a large one that was not fetched."""
    with path.open("rb") as file:
        return file.read(len(_POINTER)) == _POINTER


def _shards(index: Path) -> list[str]:
    """The files that an index of shards names; none where it is no index."""
    try:
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return []
    return sorted({name for name in named if isinstance(name, str)})
