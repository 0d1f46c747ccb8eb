"""What this machine has for a run: cores, GPUs, and a folder for Ray's sockets and logs."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from noisesmith.pipeline import __version__
from noisesmith.pipeline.errors import UserError

_MODEL_LIBRARIES = ("torch", "diffusers", "transformers")
# The longest path that Ray makes in its folder, with the largest process id that Linux gives.
_SOCKET = "session_2026-12-31_23-59-59_999999_4194304/sockets/plasma_store"
# Longest path of a socket in bytes, without the closing zero: sockaddr_un holds 108 bytes on Linux, 104 elsewhere.
_SOCKET_LIMIT = 107 if sys.platform == "linux" else 103
_SHORT_FOLDERS = ("/tmp", "/var/tmp")


def usable_cores() -> int:
    """The number of CPU cores that this process may use; those of the machine where the system has no such limit."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def versions(*libraries: str) -> dict[str, str]:
    """The versions of noisesmith and of ``libraries``, by default those that models run on."""
    return {"noisesmith": __version__} | {name: version(name) for name in libraries or _MODEL_LIBRARIES}


def cpu_name() -> str:
    """The processor's name as Linux reports it, or the machine's architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


class MachineResources(Mapping[str, float]):
    """This machine's usable GPUs and cores, by Ray's names for them.

    GPUs are counted when somebody asks, because that takes an import of torch.
    """

    def __getitem__(self, name: str) -> float:
        if name == "CPU":
            return float(usable_cores())
        if name == "GPU":
            import torch

            return float(torch.cuda.device_count())
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(("GPU", "CPU"))

    def __len__(self) -> int:
        return 2


def check_ray_folder() -> None:
    """Check that a cluster that a run starts will find a folder for its sockets and logs. Creates nothing.

    Raises:
        UserError: there is none; the message names the environment variable.
    """
    folder = _default_folder()
    if not _suits(folder):
        _parent_for_own(folder.parent)


@contextmanager
def ray_folder() -> Iterator[Path]:
    """Where a cluster that starts in this block may keep its sockets and logs.

    This is ``ray`` in ``RAY_TMPDIR`` or ``TMPDIR``, else in ``/tmp``, as Ray itself chooses. Where another user owns
    that folder, or its path is too long for a socket, it is a new folder with a short path, which is removed when the
    block ends.

    Raises:
        UserError: there is no such folder; the message names the environment variable.
    """
    folder = _default_folder()
    if _suits(folder):
        yield folder
        return
    parent = _parent_for_own(folder.parent)
    parent.mkdir(parents=True, exist_ok=True)
    own = Path(tempfile.mkdtemp(prefix="noisesmith-", dir=parent))
    try:
        yield own / "ray"  # Ray opens its folder to everyone; the one above it stays closed
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _default_folder() -> Path:
    """The folder that Ray chooses by itself.

    Raises:
        UserError: a variable names a place where nothing can be written.
    """
    variable = _variable()
    if variable is None:
        return Path("/tmp/ray")
    base = Path(os.environ[variable]).expanduser().absolute()
    if not _writable(base):
        raise UserError(
            f"{variable}: {base} is no folder that can be written; name another one for Ray's sockets and logs"
        )
    return base / "ray"


def _variable() -> str | None:
    """The environment variable by which Ray chooses its folder; an empty one counts as unset."""
    if os.environ.get("RAY_TMPDIR"):
        return "RAY_TMPDIR"
    return "TMPDIR" if sys.platform == "linux" and os.environ.get("TMPDIR") else None


def _suits(folder: Path) -> bool:
    return _is_short(folder) and _writable(folder)


def _is_short(folder: Path) -> bool:
    return len(os.fsencode(folder / _SOCKET)) <= _SOCKET_LIMIT


def _writable(folder: Path) -> bool:
    """Whether files can be created in a folder, or the folder itself where it does not exist yet."""
    for path in (folder, *folder.parents):
        if os.path.lexists(path):
            return path.is_dir() and os.access(path, os.W_OK | os.X_OK)
    return False


def _parent_for_own(preferred: Path) -> Path:
    """Where a short folder of our own can be made.

    Raises:
        UserError: nowhere.
    """
    for parent in (preferred, *map(Path, _SHORT_FOLDERS)):
        if _is_short(parent / "noisesmith-12345678" / "ray") and _writable(parent):
            return parent
    variable = _variable() or "TMPDIR"
    raise UserError(
        f"{variable}: {preferred} is too long for Ray's sockets, whose paths have at most {_SOCKET_LIMIT} bytes, or "
        f"cannot be written, nor can {' or '.join(_SHORT_FOLDERS)}; set RAY_TMPDIR to a short path"
    )
