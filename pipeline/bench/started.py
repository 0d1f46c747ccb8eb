"""What decides the results of a comparison, kept next to them, so that those of other settings never mix with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.storage.files import make_dir, write_atomic


def begin(out: Path, settings: Mapping[str, object]) -> None:
    """Write what decides the results next to them.

    Args:
        settings: by name; values that JSON can hold.
    """
    make_dir(out)
    write_atomic(_file(out), (json.dumps(settings, indent=1) + "\n").encode())


def check_started(out: Path, settings: Mapping[str, object]) -> None:
    """Refuse a directory whose results were made with other settings; see :func:`begin`.

    Raises:
        UserError: names one setting that differs.
    """
    path = _file(out)
    if not path.is_file():
        return
    old = json.loads(path.read_text(encoding="utf-8"))
    new = json.loads(json.dumps(settings))
    changed = [name for name in new if old.get(name) != new[name]]
    if changed:
        name = changed[0]
        raise UserError(
            f"{out}: was started with other settings ({name} was {old.get(name)} and is now {new[name]}); "
            "choose another --out, or give the same settings"
        )


def _file(out: Path) -> Path:
    return out / "settings.json"
