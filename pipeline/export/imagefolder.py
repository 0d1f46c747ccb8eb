"""``imagefolder``: images in folders and ``metadata.jsonl``, as ``datasets`` and diffusers' scripts read them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.export.columns import metadata_columns, metadata_names, plain
from noisesmith.pipeline.export.format import Format
from noisesmith.pipeline.export.metadata import MetadataFile
from noisesmith.pipeline.export.options import ExportOptions
from noisesmith.pipeline.export.source import Source
from noisesmith.pipeline.schema import PARENT

PER_FOLDER = 10_000  # images; file systems and the Hub are slow with more
RESERVED = ("file_name", "text", "image_initial_file_name")


class ImageFolder(Format):
    """``SPLIT/metadata.jsonl`` and ``SPLIT/00000/ID.png``.

    There are no caption files: with them, ``load_dataset(path)`` would yield texts and no image.
    """

    consumers = '`load_dataset("imagefolder")` of `datasets`, and the `train_text_to_image*.py` scripts of diffusers'

    def __init__(self, source: Source, options: ExportOptions) -> None:
        super().__init__(source, options)
        columns = source.columns
        if options.first_images and "image_initial" not in columns:
            raise UserError(
                f"--first-images: {source.run_dir} has kept no first images; leave it out, or make a run with "
                "output.image_initial=true"
            )
        self._types = columns
        self._columns = metadata_columns(columns)
        self._names = metadata_names(self._columns, RESERVED)
        self.reads = ["id", "prompt", "image", *(["image_initial"] if options.first_images else []), *self._columns]
        self.reads = list(dict.fromkeys(self.reads))
        self._unused = set() if source.manifest.continues_searches else {PARENT}
        self._metadata: dict[str, MetadataFile] = {}
        self._written: dict[str, int] = {}

    def open(self, folder: Path, counts: Mapping[str, int]) -> None:
        super().open(folder, counts)
        for split in counts:
            (folder / split).mkdir()
            self._metadata[split] = MetadataFile(folder / split / "metadata.jsonl")
            self._written[split] = 0

    def add(self, row: Mapping[str, Any], split: str) -> None:
        number = self._written[split] // PER_FOLDER
        self._written[split] += 1
        file_name = f"{number:05d}/{row['id']}.{self.encoder.extension}"
        self._write(split, file_name, row["image"])
        # Scripts take the first column for the image and the second for the text.
        record: dict[str, Any] = {"file_name": file_name, "text": row["prompt"]}
        if self.options.first_images:
            first_name = f"first-{file_name}"
            self._write(split, first_name, row["image_initial"])
            record["image_initial_file_name"] = first_name
        for name in self._columns:
            record[self._names[name]] = plain(row[name], self._types[name])
        self._metadata[split].add(record)

    def finish(self) -> None:
        """Write the metadata, with the same columns in every split."""
        empty: set[str] = set()
        for file in self._metadata.values():
            empty |= set(self._names.values()) - file.typed
        for file in self._metadata.values():
            file.close(empty)
        renamed = [f"{old} is named {new}" for old, new in self._names.items() if old != new]
        if renamed:
            self.notes.append(f"Columns were renamed, since loaders give their names a meaning: {', '.join(renamed)}.")
        if empty - self._unused:
            names = ", ".join(sorted(empty - self._unused))
            self.notes.append(f"Columns without a value in a whole split were left out: {names}.")

    def usage(self) -> str:
        out = self.options.out
        return (
            "```python\nfrom datasets import load_dataset\n\n"
            f'images = load_dataset("imagefolder", data_dir={str(out)!r}, split="train")\n'
            'print(images[0]["text"])\n```\n\n'
            f"diffusers: `train_text_to_image.py --train_data_dir={out}/train`. The image is the first column and the "
            "prompt, `text`, the second, so that no column has to be named."
        )

    def _write(self, split: str, name: str, png: bytes) -> None:
        path = self.folder / split / name
        path.parent.mkdir(exist_ok=True)
        with path.open("xb") as file:
            file.write(self.encoder.encode(png))
