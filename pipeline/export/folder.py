"""The folder of an export, which has its name only once it is whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from noisesmith.pipeline.errors import RunError, UserError, reason
from noisesmith.pipeline.storage.files import make_dir, sync_dir, temporary
from noisesmith.pipeline.storage.paths import is_remote


def check_out(out: Path, run_dir: Path) -> None:
    """Refuse a folder that holds something, or that is part of the run.

    Raises:
        UserError: the export cannot be written there.
    """
    if os.path.lexists(out) and not out.is_dir():
        raise UserError(f"--out {out}: is a file; give a folder that does not exist yet")
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"--out {out}: is not empty; give another folder, or remove it first")
    if not is_remote(run_dir) and Path(os.path.realpath(out)).is_relative_to(os.path.realpath(run_dir)):
        raise UserError(f"--out {out}: is within the run's own directory; give a folder outside of it")


def leftovers(out: Path) -> list[Path]:
    """Return the folders that killed exports to ``out`` have left."""
    return sorted(out.parent.glob(f".{out.name}.*.tmp"))


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Yield a new folder next to ``out``. It gets that name when the block ends, and is removed when the block raises.

    Raises:
        UserError: the folder cannot be made.
        RunError: something cannot be written.
    """
    staged = temporary(out)
    try:
        make_dir(out.parent)
        staged.mkdir()
    except OSError as error:
        raise UserError(f"--out {out}: cannot be made ({reason(error)}); give another folder") from error
    try:
        yield staged
        staged.rename(out)  # also over an empty folder
        sync_dir(out.parent)
    except OSError as error:
        raise RunError(f"{out}: cannot be written ({reason(error)}), and nothing is left of the export") from error
    finally:
        if staged.exists():
            shutil.rmtree(staged, ignore_errors=True)
