"""An object of a store as a file."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Any


class RangeReader(io.RawIOBase):
    """Reads an object of a store by ranges of bytes.

    Args:
        read: returns the bytes [start, end) of the object.
        size: of the object.
    """

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        self._read = read
        self._size = size
        self._at = 0  # offset of the next byte to read

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        end = min(self._at + len(buffer), self._size)
        if end <= self._at:
            return 0
        content = self._read(self._at, end)
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)
