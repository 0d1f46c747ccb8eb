"""What every format of an export has to do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

from noisesmith.pipeline.export.images import DEFAULT_QUALITY, ImageEncoder
from noisesmith.pipeline.export.options import ExportOptions
from noisesmith.pipeline.export.source import Source


class Format(ABC):
    """Writes one export into a folder, row by row. An object is used once: ``open``, ``add`` per row, ``finish``.

    ``decides_by`` are the columns that :meth:`refusal` reads, ``reads`` those that :meth:`add` reads. ``notes`` are
    sentences about what was changed or left out, for the user.
    """

    decides_by: Collection[str] = ()
    reads: Collection[str] = ()
    consumers: ClassVar[str]  # half a sentence: what reads it

    def __init__(self, source: Source, options: ExportOptions) -> None:
        self.options = options
        self.notes: list[str] = []
        self.folder = Path()
        self.encoder = ImageEncoder(options.image_format or "png", options.image_quality or DEFAULT_QUALITY)

    def open(self, folder: Path, counts: Mapping[str, int]) -> None:
        """Begin to write into an empty folder; ``counts`` has the number of rows to come for each split."""
        self.folder = folder

    def refusal(self, row: Mapping[str, Any]) -> str | None:
        """Return why a row cannot be exported, as it is counted; ``None`` where it can. Images are not among its
        columns."""
        return None

    @abstractmethod
    def add(self, row: Mapping[str, Any], split: str) -> str | None:
        """Write one row into a split, or return why it is left out, as it is counted."""

    def finish(self) -> None:  # noqa: B027 - most formats have nothing left to write
        """Write what is written once."""

    @abstractmethod
    def usage(self) -> str:
        """Return how to load the export, as Markdown. ``self.options.out`` is where it will lie."""
