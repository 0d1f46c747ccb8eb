"""Paths as a user writes them, and as they are shown to be written: ``~`` means the home folder, all else itself."""

from __future__ import annotations

import os
import shlex
from pathlib import Path


def user_path(text: str) -> Path:
    """Return a local path with a leading ``~`` or ``~user`` replaced by the home folder.

    Where there is no such user, the path stays as it is.
    """
    return Path(os.path.expanduser(text))


def location_of(path: Path) -> str:
    """Return a text that a config reads back as this path. A folder may really be called ``~``."""
    text = str(path)
    return f"./{text}" if text.startswith("~") else text


def shell_word(path: Path) -> str:
    """Return the word of a shell command that names this path, for a command that is shown to be typed."""
    text = location_of(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)
