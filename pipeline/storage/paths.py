"""Paths of a run directory: local, or in an object store (a URL).

Both are used as ``pathlib.Path``. fsspec's ``glob``, ``isfile`` and ``isdir`` report "nothing there" when a store does
not answer at all. Here a failed request is always an ``OSError``: otherwise a resumed run would take rows for missing.
"""

from __future__ import annotations

import errno
import hashlib
import importlib
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeGuard, cast
from urllib.parse import unquote, urlsplit

from fsspec import AbstractFileSystem
from upath.extensions import ProxyUPath
from upath.types import StatResultType

from noisesmith.pipeline.errors import UserError, reason
from noisesmith.pipeline.storage.home import user_path
from noisesmith.pipeline.storage.ranges import RangeReader

BLOCK_BYTES = 8 * 2**20
OBJECTS_AT_ONCE = 32  # fetched concurrently
BYTES_AT_ONCE = 256 * 2**20  # of several of them


class Store(NamedTuple):
    """A kind of object store.

    ``package`` speaks its protocol and ``install`` is how to get it. ``options`` are those of the package's client,
    which waits long for a store that does not answer; with ``options_at_start`` it fails soon when a run starts.
    """

    package: str
    install: str
    options: dict[str, Any]
    options_at_start: dict[str, Any]


def _s3(attempts: int) -> dict[str, Any]:
    """Return the options of s3fs's client.

    After a timeout or a 5xx answer botocore waits a random part of 1, 2, 4, 8, 16, then 20 s; s3fs repeats some of
    these series from scratch, up to five times.
    """
    retries = {"mode": "standard", "total_max_attempts": attempts}
    return {"config_kwargs": {"retries": retries, "connect_timeout": 10, "read_timeout": 60}}


STORES = {
    "s3": Store("s3fs", "noisesmith[s3]", _s3(20), _s3(2)),
    "gs": Store("gcsfs", "gcsfs", {}, {}),
    "hf": Store("huggingface_hub", "huggingface_hub", {}, {}),
}


@cache
def _drop_expect_header() -> None:
    """Let botocore send bodies without asking first.

    aiohttp forgets its read timeout when a server has answered ``100 Continue``, so an upload that gets no further
    answer would wait forever.
    """
    from botocore import handlers

    with suppress(ValueError, AttributeError):  # another version of botocore may not have this handler
        handlers.BUILTIN_HANDLERS.remove(("before-call.s3", handlers.add_expect_header))


def to_path(location: str | Path) -> Path:
    """Return the path of a local location or of a store's URL, such as ``s3://bucket/folder``, without a request.

    A text is a location as a user writes it, where ``~`` means the home folder. A path is returned as it is.

    Raises:
        ValueError: there is no such home folder, the URL holds credentials or no folder, or its scheme is unknown or
            lacks its package.
    """
    if not isinstance(location, str):
        return location  # also a StorePath, which is used as a Path but is no subclass of it
    if "://" not in location:
        path = user_path(location)
        if location.startswith("~") and str(path).startswith("~"):
            home = path.parts[0]
            raise ValueError(f"{home} is the home folder of no user; write ./{home} for a folder of that name")
        return path
    parts = urlsplit(location)
    if parts.scheme == "file":
        if parts.netloc or not parts.path:
            raise ValueError("file:// must be followed by an absolute path, as in file:///data/my-run")
        return Path(unquote(parts.path))
    store = STORES.get(parts.scheme)
    if store is None:
        known = ", ".join(f"{name}://" for name in STORES)
        raise ValueError(f"{parts.scheme}:// is no known store; use {known}")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ValueError("must be a plain URL without credentials; put those into the environment")
    if any(pattern in location for pattern in ("*", "[", "::")):
        raise ValueError("must not hold *, [ or ::, which the clients of stores read as patterns")
    if not parts.netloc or not parts.path.strip("/"):
        raise ValueError(f"must name a bucket and a folder in it, such as {parts.scheme}://bucket/my-run")
    try:
        importlib.import_module(store.package)
    except ImportError as error:
        message = f"{parts.scheme}:// needs {store.package}; run pip install '{store.install}'"
        raise ValueError(message) from error
    return cast(Path, StorePath(parts.geturl().rstrip("/"), **store.options))


def given_path(location: str | Path, what: str) -> Path:
    """Return :func:`to_path` of an argument, or raise a ``UserError`` whose sentence begins with ``what``."""
    try:
        return to_path(location)
    except ValueError as error:
        raise UserError(f"{what}: {error}") from None


def is_remote(path: object) -> TypeGuard[StorePath]:
    """Return whether a path is in an object store: whole objects only, no directories, renames or appending."""
    return isinstance(path, StorePath)


def read_each(folder: Path, names: Sequence[str]) -> Iterator[tuple[Path, bytes]]:
    """Yield each of these files of a folder and its content, in order.

    Objects of a store are fetched a few dozen at a time, since each answer takes its time to come; large ones fewer.
    """
    if not is_remote(folder):
        for name in names:
            yield folder / name, (folder / name).read_bytes()
        return
    sizes = folder.sizes() if len(names) > 1 else {}
    together: list[StorePath] = []
    held = 0  # bytes
    for name in names:
        size = sizes.get(name, 0)
        if len(together) == OBJECTS_AT_ONCE or (together and held + size > BYTES_AT_ONCE):
            yield from zip(together, folder.read_together(together), strict=True)
            together, held = [], 0
        together.append(folder / name)
        held += size
    yield from zip(together, folder.read_together(together), strict=True)


class StorePath(ProxyUPath):
    """A path in an object store. Every failed request is an ``OSError``, whichever client the store has."""

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
            if name.strip("/") != self.path.strip("/"):  # some tools mark a folder by an empty object of its name
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
        file = io.BufferedReader(RangeReader(self.read_range, self._ask("info")["size"]), BLOCK_BYTES)
        return file if mode == "rb" else io.TextIOWrapper(file, **options)

    def read_bytes(self) -> bytes:
        content: bytes = self._ask("cat_file")
        return content

    def sizes(self) -> dict[str, int]:
        """Return the size of each object directly below this path in bytes, by its name: one request."""
        return {found["name"].rpartition("/")[2]: found["size"] or 0 for found in self._ask("ls", detail=True)}

    def read_together(self, paths: Sequence[StorePath]) -> list[bytes]:
        """Return the contents of objects of this store."""
        names = [path.path for path in paths]
        with self._os_errors():
            found = self.fs.cat(names) if names else {}
        return [found[name] for name in names]

    def read_text(self, encoding: str | None = None, errors: str | None = None, newline: str | None = None) -> str:
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def read_range(self, start: int, end: int) -> bytes:
        """Return the bytes [start, end) of the object."""
        content: bytes = self._ask("cat_file", start=start, end=end)
        return content

    def unlink(self, missing_ok: bool = False) -> None:
        with suppress(FileNotFoundError) if missing_ok else nullcontext():
            self._ask("rm_file")

    def remove_tree(self) -> None:
        """Remove every object below this path."""
        self._ask("rm", recursive=True)

    def check(self) -> None:
        """Make sure that the store answers now and has the bucket. The folder need not exist yet.

        Raises:
            OSError: the store does not answer, has no such bucket, or refuses access.
        """
        now = StorePath(str(self), **STORES[self.protocol].options_at_start)
        try:
            now._ask("ls")
        except FileNotFoundError as error:
            # A missing bucket is an error of the store, which the client chains as the cause. For a folder without
            # objects the client raises on its own.
            if error.__cause__ is not None:
                raise

    def upload(self, source: Path) -> None:
        """Create or replace the object, and read it back. Readers see the old content or the new.

        Raises:
            OSError: this failed; also when the store returns bytes other than those it was sent.
        """
        self._ask("put_file", source=source)
        with source.open("rb") as sent, self.open("rb") as kept:
            sent_digest = hashlib.file_digest(sent, "sha256").digest()
            self._check(hashlib.file_digest(kept, "sha256").digest() == sent_digest)

    def put(self, content: bytes) -> None:
        """Create or replace the object like :meth:`upload`, from memory: two requests."""
        self._ask("pipe_file", content)
        self._check(self.read_bytes() == content)

    def copy_from(self, other: StorePath) -> None:
        """Create or replace the object with the content of another one. The store copies it, nothing is sent.

        Raises:
            OSError: this failed; also when the copy has another size.
        """
        other._ask("cp_file", self.path)
        self._check(self._ask("info")["size"] == other._ask("info")["size"])

    def _check(self, same: bool) -> None:
        if not same:
            raise OSError(errno.EIO, "the store returns other bytes than it was sent", str(self))

    def copy_to(self, target: StorePath) -> None:
        """Copy the object within its store, in place of an earlier target."""
        self._ask("cp_file", path2=target.path)

    def _kind(self) -> str | None:
        """Return ``file`` or ``directory``, or ``None`` where there is nothing."""
        try:
            kind: str = self._ask("info")["type"]
        except FileNotFoundError:
            return None
        return kind

    def _ask(self, operation: str, *arguments: Any, source: Path | None = None, **options: Any) -> Any:
        """Request an operation of the store on this path. The client repeats it where that may help."""
        with self._os_errors():
            self.fs.invalidate_cache(self.path)  # other processes write too
            call = getattr(self.fs, operation)
            before = () if source is None else (str(source),)
            return call(*before, self.path, *arguments, **options)

    @contextmanager
    def _os_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            raise
        except Exception as error:  # botocore's, Google's and httpx's errors share no class
            raise OSError(errno.EIO, reason(error), str(self)) from error
