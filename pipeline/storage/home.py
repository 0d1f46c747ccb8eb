"""Local paths as a user writes them: ``~`` means the home folder, and nothing else is replaced."""

from __future__ import annotations

import os
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
