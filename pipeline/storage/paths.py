"""Places of a run directory: a local path, or a URL of an object store.

Both are used as ``pathlib.Path``. fsspec's ``glob``, ``isfile`` and ``isdir`` answer "nothing there" when a store does
not answer at all; here what could not be read is always an ``OSError``, or a resumed run would take rows for missing.
"""

from __future__ import annotations

import errno
import hashlib
import importlib
import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeGuard, cast
from urllib.parse import unquote, urlsplit

from fsspec import AbstractFileSystem
from upath.extensions import ProxyUPath
from upath.types import StatResultType

from noisesmith.pipeline.errors import reason

BLOCK_BYTES = 8 * 2**20
TOGETHER = 32  # objects fetched at once


class Store(NamedTuple):
    """A kind of object store: the package that speaks its protocol, how to get it, and the options of its client,
    which waits long for a store that does not answer, but not when a run is started."""

    package: str
    install: str
    options: dict[str, Any]
    options_at_start: dict[str, Any]


def _s3(attempts: int) -> dict[str, Any]:
    """botocore waits a random part of 1, 2, 4, 8, 16, then 20 s after a timeout or 5xx answer; s3fs repeats some of
    these all over, up to five times."""
    retries = {"mode": "standard", "total_max_attempts": attempts}
    return {"config_kwargs": {"retries": retries, "connect_timeout": 10, "read_timeout": 60}}


STORES = {
    "s3": Store("s3fs", "noisesmith[s3]", _s3(20), _s3(2)),
    "gs": Store("gcsfs", "gcsfs", {}, {}),
    "hf": Store("huggingface_hub", "huggingface_hub", {}, {}),
}


@cache
def _drop_expect_header() -> None:
    """Let botocore send bodies without asking first: aiohttp forgets its read timeout when a server has said
    ``100 Continue``, and an upload that gets no other answer would wait for ever."""
    from botocore import handlers

    with suppress(ValueError, AttributeError):  # a botocore without it has nothing to drop
        handlers.BUILTIN_HANDLERS.remove(("before-call.s3", handlers.add_expect_header))


def to_path(place: str | Path) -> Path:
    """The path of a local place or of a store's URL, such as ``s3://bucket/folder``; nothing is asked of the store.

    Raises:
        ValueError: the URL holds credentials or no folder, or its scheme is unknown or lacks its package.
    """
    if not isinstance(place, str) or "://" not in place:
        return Path(place) if isinstance(place, str) else place
    parts = urlsplit(place)
    if parts.scheme == "file":
        if parts.netloc or not parts.path:
            raise ValueError("file:// must be followed by an absolute path, as in file:///data/my-run")
        return Path(unquote(parts.path))
    store = STORES.get(parts.scheme)
    if store is None:
        raise ValueError(f"{parts.scheme}:// is no known store; use {', '.join(f'{name}://' for name in STORES)}")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ValueError("must be a plain URL without credentials; those belong into the environment")
    if "*" in place or "[" in place:
        raise ValueError("must not hold * or [, which stores' clients read as patterns")
    if not parts.netloc or not parts.path.strip("/"):
        raise ValueError(f"must name a bucket and a folder in it, such as {parts.scheme}://bucket/my-run")
    try:
        importlib.import_module(store.package)
    except ImportError:
        raise ValueError(f"{parts.scheme}:// needs {store.package}; run pip install '{store.install}'") from None
    return cast(Path, StorePath(parts.geturl().rstrip("/"), **store.options))


def is_remote(path: object) -> TypeGuard[StorePath]:
    """Whether a path is in an object store: no directories, no renames, no appending, whole objects only."""
    return isinstance(path, StorePath)


def read_each(paths: Iterable[Path]) -> Iterator[tuple[Path, bytes]]:
    """Files whole, in order; those in a store a few dozen at a time, since each answer takes its time to come."""
    rest = iter(paths)
    while batch := list(islice(rest, TOGETHER)):
        if is_remote(batch[0]):
            contents = batch[0].read_together([path.path for path in cast(list[StorePath], batch)])
            yield from zip(batch, contents, strict=True)
        else:
            yield from ((path, path.read_bytes()) for path in batch)


class StorePath(ProxyUPath):
    """A path in an object store. Everything it cannot answer or do is an ``OSError``, whatever the store's client."""

    @property
    def fs(self) -> AbstractFileSystem:
        if self.protocol == "s3":
            _drop_expect_header()
        return super().fs

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        return self._kind() is not None

    def is_file(self) -> bool:
        return self._kind() == "file"

    def is_dir(self) -> bool:
        return self._kind() == "directory"

    def stat(self, *, follow_symlinks: bool = True) -> StatResultType:
        with self._os_errors():
            return super().stat()

    def iterdir(self) -> Iterator[Self]:
        for name in sorted(self._ask("ls", detail=False)):
            if name.strip("/") != self.path.strip("/"):  # some tools mark a folder with an empty object of its name
                yield self / name.rstrip("/").rpartition("/")[2]

    def glob(self, pattern: str, **__: Any) -> Iterator[Self]:
        first, _, rest = pattern.partition("/")
        try:
            found = [path for path in self.iterdir() if fnmatchcase(path.name, first)]
        except FileNotFoundError:
            return
        for path in found:
            yield from path.glob(rest) if rest else (path,)

    def open(self, mode: str = "r", *_: Any, **options: Any) -> Any:
        if mode not in ("r", "rb"):
            raise io.UnsupportedOperation(f"{self}: objects are written whole, with files.write_atomic")
        file = io.BufferedReader(_Reader(self, self._ask("info")["size"]), BLOCK_BYTES)
        return file if mode == "rb" else io.TextIOWrapper(file, **options)

    def read_bytes(self) -> bytes:
        return self._ask("cat_file")

    def read_together(self, names: list[str]) -> list[bytes]:
        """Objects of this store by their names in it, bucket and all."""
        with self._os_errors():
            found = self.fs.cat(names)
        return [found[name] for name in names]

    def read_text(self, encoding: str | None = None, errors: str | None = None, newline: str | None = None) -> str:
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def read_range(self, start: int, end: int) -> bytes:
        """The bytes [start, end) of the object."""
        return self._ask("cat_file", start=start, end=end)

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            self._ask("rm_file")
        except FileNotFoundError:
            if not missing_ok:
                raise

    def remove_tree(self) -> None:
        """Remove every object below."""
        self._ask("rm", recursive=True)

    def check(self) -> None:
        """Whether the store answers now, and has the bucket; a folder that is not there yet is well.

        Raises:
            OSError: it does not, or refuses.
        """
        now = StorePath(str(self), **STORES[self.protocol].options_at_start)
        try:
            now._ask("ls")
        except FileNotFoundError as error:
            if error.__cause__ is not None:  # the store's own word on the bucket; on an empty folder it has none
                raise

    def upload(self, source: Path) -> None:
        """Make or replace the object, and read it back: readers see the old content or the new.

        Raises:
            OSError: also when the store returns other bytes than it was sent.
        """
        self._ask("put_file", source=source)
        with source.open("rb") as sent, self.open("rb") as kept:
            if hashlib.file_digest(sent, "sha256").digest() != hashlib.file_digest(kept, "sha256").digest():
                raise OSError(errno.EIO, "the store returns other bytes than it was sent", str(self))

    def _kind(self) -> str | None:
        try:
            return self._ask("info")["type"]
        except FileNotFoundError:
            return None

    def _ask(self, operation: str, *, source: Path | None = None, **options: Any) -> Any:
        """An operation of the store on this path, which its client repeats where that may help."""
        with self._os_errors():
            self.fs.invalidate_cache(self.path)  # other processes write too
            call = getattr(self.fs, operation)
            return call(self.path, **options) if source is None else call(str(source), self.path, **options)

    @contextmanager
    def _os_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            raise
        except Exception as error:  # botocore's, google's and httpx's errors have no common kind
            raise OSError(errno.EIO, reason(error), str(self)) from error


class _Reader(io.RawIOBase):
    """An object read by ranges."""

    def __init__(self, path: StorePath, size: int) -> None:
        self._path, self._size, self._at = path, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        end = min(self._at + len(buffer), self._size)
        if end <= self._at:
            return 0
        content = self._path.read_range(self._at, end)
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)
