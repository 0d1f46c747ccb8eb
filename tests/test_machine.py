"""Machines that lack something: a short or writable folder for Ray, and what only Linux has."""

from __future__ import annotations

import builtins
import errno
import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ray._common.utils import get_default_ray_temp_dir
from ray._private.utils import validate_socket_filepath

from noisesmith.pipeline import machine
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.machine import MachineResources, check_ray_folder, ray_folder, usable_cores
from noisesmith.pipeline.storage import files, lock

VARIABLES = ("RAY_TMPDIR", "TMPDIR")


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short path."""
    folder = Path("/tmp", f"ns{os.getpid()}")
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def chosen() -> Path:
    """The folder that a run's cluster would get, after the check that `plan` makes."""
    check_ray_folder()
    with ray_folder() as folder:
        return folder


def long_folder(below: Path) -> Path:
    folder = below / "slurm_jobdir" / "1234567" / "tmp.node0016.cluster.example.org" / "scratch" / "ünïcode"
    folder.mkdir(parents=True)
    return folder


# Ray's folder


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_short_folder_is_the_one_that_ray_itself_takes(
    variable: str, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, str(short))
    assert chosen() == Path(get_default_ray_temp_dir()) == short / "ray"


def test_ray_tmpdir_goes_before_tmpdir(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/proc/nothing")
    monkeypatch.setenv("RAY_TMPDIR", str(short))
    assert chosen() == Path(get_default_ray_temp_dir())


def test_a_folder_that_does_not_exist_yet_will_do(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(short / "made" / "later"))
    check_ray_folder()
    assert not (short / "made").exists(), "checking creates nothing"
    with ray_folder() as folder:
        assert folder == short / "made" / "later" / "ray"


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_long_path_gets_a_short_folder_that_is_removed(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, str(long_folder(tmp_path)))
    check_ray_folder()
    with ray_folder() as folder:
        folder.mkdir()
        (folder / "logs").touch()
        assert folder.parent.stat().st_mode & 0o077 == 0, "Ray opens its folder to everyone, so ours is closed"
        validate_socket_filepath(str(folder / machine._SOCKET))
    assert not folder.parent.exists()


def test_the_longest_path_of_a_socket_is_rays(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray makes its names of the session's date and process id, and checks each by its length in bytes."""
    session = next(part for part in Path(machine._SOCKET).parts if part.startswith("session_"))
    assert len(session) >= len("session_2026-11-28_20-23-27_374410_") + len("4194304")
    fits = short / ("x" * (machine._SOCKET_LIMIT - len(os.fsencode(short / "ray" / machine._SOCKET)) - 1))
    for folder, is_short in ((fits, True), (fits.with_name(fits.name + "x"), False)):
        monkeypatch.setenv("TMPDIR", str(folder))
        assert (chosen().parent == folder) is is_short
        if is_short:
            validate_socket_filepath(str(folder / "ray" / machine._SOCKET))
        else:
            with pytest.raises(OSError, match="AF_UNIX"):
                validate_socket_filepath(str(folder / "ray" / machine._SOCKET))


def test_a_folder_of_another_user_is_left_to_them(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (short / "ray").touch()  # not even root can use it
    monkeypatch.setenv("RAY_TMPDIR", str(short))
    assert chosen().is_relative_to(short)
    assert list(short.iterdir()) == [short / "ray"]


@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize("how", ["file", "below a file", "broken link", "not writable"])
def test_a_folder_that_cannot_be_written_is_named_with_its_variable(
    variable: str, how: str, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = short / "taken"
    if how == "broken link":
        folder.symlink_to(short / "nowhere")
    elif how == "not writable":
        folder.mkdir()
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder)
    else:
        folder.touch()
    monkeypatch.setenv(variable, str(folder / "below" if how == "below a file" else folder))
    for attempt in (check_ray_folder, chosen):
        with pytest.raises(UserError, match=f"^{variable}: {folder}.* is no folder that can be written"):
            attempt()


def test_no_short_folder_at_all_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_SHORT_FOLDERS", ("/proc/self/nowhere",))
    monkeypatch.setenv("TMPDIR", str(long_folder(tmp_path)))
    with pytest.raises(UserError, match=r"^TMPDIR: .* at most 107 bytes.*; set RAY_TMPDIR to a short path$"):
        check_ray_folder()


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "")
    monkeypatch.setenv("TMPDIR", "")
    assert chosen() == Path("/tmp/ray") or chosen().parent.name.startswith("noisesmith-")


# What only Linux has


def test_cores_are_counted_without_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cores() == os.cpu_count()
    assert MachineResources()["CPU"] == os.cpu_count()
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1


def without(prefix: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """``method`` of a path where no path with this prefix exists."""

    def found(path: Path, *arguments: Any, **options: Any) -> Any:
        if str(path).startswith(prefix):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return method(path, *arguments, **options)

    return found


@pytest.fixture
def no_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("read_text", "read_bytes", "readlink", "stat"):
        monkeypatch.setattr(Path, name, without("/proc", getattr(Path, name)))


def test_the_processor_has_a_name_without_proc(no_proc: None) -> None:
    assert machine.cpu_name()


def test_a_lock_knows_its_owner_without_proc(no_proc: None, tmp_path: Path) -> None:
    with lock.hold(tmp_path, print):
        owner = lock.read_owner(tmp_path)
        assert owner is not None
        assert owner.alive
        with pytest.raises(UserError, match="is being written by pid"), lock.hold(tmp_path, print):
            pass


def test_a_dead_owner_is_told_from_a_living_one_without_proc(no_proc: None) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        start = lock._process_start(process.pid)
        assert start == lock._process_start(process.pid) != lock._process_start(os.getpid())
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert lock._process_start(process.pid) is None, "a zombie"
    assert lock._process_start(process.pid) is None


def test_files_are_written_without_file_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_fcntl(name: str, *arguments: Any) -> Any:
        if name == "fcntl":
            raise ImportError(name)
        return real(name, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "__import__", without_fcntl)
        importlib.reload(files)
    try:
        with lock.hold(tmp_path, print):
            files.write_atomic(tmp_path / "a", b"b")
        assert (tmp_path / "a").read_bytes() == b"b"
    finally:
        importlib.reload(files)
