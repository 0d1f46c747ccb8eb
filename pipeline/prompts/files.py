"""Files of a corpus as bytes and lines: decompressed, decoded, and refused where they are no such file at all."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa

from noisesmith.pipeline.errors import UserError, reason

MAX_LINE = 1 << 26  # bytes; a file without line ends must not fill the RAM
BOM = "\ufeff"
_MAGIC = {  # how a compressed file begins → how it is called
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_HTML = (b"<!doctype html", b"<html", b"<head", b"<body", b"<?xml")
_ERROR_TEXTS = (b"404: not found", b"not found", b"entry not found", b"invalid username or password.")


def compression(path: Path) -> str | None:
    """Return how a file is compressed, by its first bytes, whatever its name says; ``None`` where it is not."""
    with path.open("rb") as file:
        start = file.read(8)
    for magic, kind in _MAGIC.items():
        if start.startswith(magic):
            return kind
    return None


@contextmanager
def opened(path: Path, name: str) -> Iterator[BinaryIO]:
    """Open a file for reading bytes, decompressed where it is compressed.

    Raises:
        UserError: the file cannot be read, or is damaged.
    """
    try:
        kind = compression(path)
        with path.open("rb") as file:
            yield _decompressed(file, kind)
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, pa.ArrowException) as error:
        raise UserError(
            f"corpus.source: {name}: is damaged or cut short where it is compressed ({reason(error)}); fetch it again"
        ) from error
    except OSError as error:
        raise UserError(f"corpus.source: {name}: cannot be read: {error.strerror or reason(error)}") from error


def _decompressed(file: BinaryIO, kind: str | None) -> BinaryIO:
    if kind == "gzip":
        return cast(BinaryIO, gzip.GzipFile(fileobj=file))
    if kind == "bzip2":
        return cast(BinaryIO, bz2.BZ2File(file))
    if kind == "xz":
        return cast(BinaryIO, lzma.LZMAFile(file))
    if kind == "zstd":
        return io.BufferedReader(pa.CompressedInputStream(file, "zstd"))
    return file


def beginning(path: Path, name: str, size: int = 1 << 16) -> bytes:
    """Return the first bytes of a file's content.

    Raises:
        UserError: as for :func:`opened`.
    """
    with opened(path, name) as file:
        return file.read(size)


def refuse_other_content(path: Path, name: str) -> None:
    """Refuse a file that stands in for the one it should be: a pointer of Git LFS, an error page, an archive.

    Raises:
        UserError: it is one; the sentence says which, and how to get the file itself.
    """
    start = beginning(path, name, 1024).removeprefix(BOM.encode()).lstrip()
    what = None
    if start.startswith(b"version https://") and b"oid sha256:" in start:
        what = "a Git LFS pointer, not the file itself; fetch the file with: git lfs pull"
    elif b"/annex/objects/" in start[:300]:
        what = "a git-annex pointer, not the file itself; fetch the file with: git annex get"
    elif start.lower().startswith(_HTML):
        what = "an HTML or XML page, such as a download gives on an error or before a login; fetch the file again"
    elif start.strip().lower() in _ERROR_TEXTS:
        what = f"the error text {start.strip().decode()!r} of a failed download; fetch the file again"
    elif start.startswith(b"PK\x03\x04"):
        what = "a ZIP archive (so is an Excel workbook); unpack it, or save the table as CSV"
    elif start.startswith(b"PAR1") and path.suffix.lower() != ".parquet":
        what = "a Parquet file; give its name the extension .parquet"
    if what is not None:
        raise UserError(f"corpus.source: {name}: is {what}")


def numbered_lines(path: Path, name: str) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines of UTF-8 text with their ends.

    Raises:
        UserError: the file cannot be read, or a line is not UTF-8 or too long.
    """
    with opened(path, name) as file:
        number = 0
        while raw := file.readline(MAX_LINE):
            number += 1
            if len(raw) == MAX_LINE:
                raise UserError(f"{name}: line {number}: has {MAX_LINE} bytes or more; write one prompt per line")
            try:
                yield number, raw.decode()
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{name}: line {number}: is not UTF-8 at byte {error.start + 1}; save the file as UTF-8 text"
                ) from error


def filled_lines(path: Path, name: str, earlier: bool) -> Iterator[tuple[int, str]]:
    """Yield numbered lines without their ends and byte order marks, and without blank lines at the end of the file.

    Args:
        earlier: remove a byte order mark only from the first line, as earlier versions did.

    Raises:
        UserError: as for :func:`numbered_lines`, or a blank line stands between others.
    """
    blank = None
    for number, line in numbered_lines(path, name):
        text = line.removesuffix("\n").removesuffix("\r")
        if number == 1 or not earlier:  # files that were joined have one at the start of each
            text = text.removeprefix(BOM)
        if not text.strip():
            blank = blank or number
        elif blank:
            raise UserError(f"{name}: line {blank}: is blank, so its prompt is empty; remove the line")
        else:
            yield number, text
