"""Where a run directory can be: refused, or an error explained, in one sentence."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.sinks.layout import unopenable
from noisesmith.pipeline.storage import files
from noisesmith.pipeline.storage.lock import lock_file
from noisesmith.pipeline.storage.paths import is_remote


def check_location(run_dir: Path) -> None:
    """Refuse a location where no run directory can be created or written, and write nothing.

    Raises:
        UserError: this is one.
    """
    if "\0" in str(run_dir):
        raise UserError(f"output.dir: {str(run_dir)!r} holds a NUL character; choose another output.dir")
    try:
        os.fsencode(str(run_dir))
    except UnicodeEncodeError as error:  # Python's encoding of file names follows the locale
        raise UserError(
            f"output.dir: {str(run_dir)!r} is no file name in {error.encoding}, the encoding of this locale; "
            "set LC_ALL=C.UTF-8, or choose another output.dir"
        ) from error
    with writing(run_dir):
        if is_remote(run_dir):
            run_dir.check()
            return
        nearest = next(path for path in (run_dir, *run_dir.absolute().parents) if os.path.lexists(path))
        if not nearest.is_dir():
            raise UserError(f"output.dir: {nearest} is not a directory; choose another output.dir")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise UserError(f"output.dir: {nearest} cannot be written; choose another output.dir or allow writing")


def check_new(run_dir: Path) -> None:
    """Refuse a directory in which no new run can begin, and write nothing.

    Raises:
        UserError: it holds files, or ``load_dataset`` could not open a dataset in it.
    """
    with writing(run_dir):
        if run_dir.exists() and any(map(_is_foreign, run_dir.iterdir())):
            raise UserError(f"output.dir: {run_dir} holds files but no run; choose an empty or new directory")
    problem = unopenable(run_dir)
    if problem is not None:
        raise UserError(f"output.dir: {problem}; choose an output.dir without it")


def _is_foreign(path: Path) -> bool:
    """Return whether a file is none of those that a run has before it has a manifest."""
    return not files.is_temporary(path) and path != lock_file(path.parent)


@contextmanager
def writing(run_dir: Path) -> Iterator[None]:
    """Explain in one sentence why a run directory, or the location for one, cannot be used.

    Raises:
        UserError: the block has raised an ``OSError``.
    """
    try:
        yield
    except OSError as error:
        message = f"output.dir: {run_dir} cannot be written ({error.strerror or error}); {_remedy(run_dir, error)}"
        raise UserError(message) from error


@contextmanager
def reading(run_dir: Path) -> Iterator[None]:
    """Explain in one sentence why a run directory cannot be read.

    Raises:
        UserError: the block has raised an ``OSError``.
    """
    try:
        yield
    except OSError as error:
        remedy = "check its permissions and its disk"
        if is_remote(run_dir):
            remedy = "check the store's address and the network"
            if isinstance(error, PermissionError):
                remedy = "renew the credentials in the environment"
        raise UserError(f"{run_dir}: cannot be read ({error.strerror or error}); {remedy}") from error


def _remedy(run_dir: Path, error: OSError) -> str:
    if not is_remote(run_dir):
        if error.errno == errno.ENOSPC:
            return "free some space, or choose another output.dir"
        return "choose another output.dir"
    if isinstance(error, FileNotFoundError):
        return "create the bucket, or choose another output.dir"
    if isinstance(error, PermissionError):
        return "renew the credentials in the environment, or choose an output.dir they may write to"
    return "check the store's address and the network"
