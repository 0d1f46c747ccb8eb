"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def replace_with(path: Path, data: bytes) -> None:
    """Write ``data`` to a temporary file beside ``path`` and rename it there."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)
