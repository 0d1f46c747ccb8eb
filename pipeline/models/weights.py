"""Looks at stored weight files without loading them: are all of them there, and are they weights?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

_POINTER = b"version https://git-lfs.github.com/spec/"  # what a clone without Git LFS has in place of a large file
_INDEX = ".index."
_SHARD = "-of-"


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
