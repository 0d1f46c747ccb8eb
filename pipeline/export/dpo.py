"""``dpo``: pairs of images of a row, as the Diffusion-DPO scripts read them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from noisesmith.pipeline.export.columns import metadata_columns, metadata_names, plain, plain_type
from noisesmith.pipeline.export.format import Format
from noisesmith.pipeline.export.options import ExportOptions
from noisesmith.pipeline.export.pairs import SCORE, KeptAndFirst, read_pairs
from noisesmith.pipeline.export.source import Source

GROUP_BYTES = 64 * 2**20  # of images in one row group
FILE_BYTES = 512 * 2**20
RESERVED = ("jpg_0", "jpg_1", "label_0", "label_1", "caption")


class Dpo(Format):
    """``data/train-00000-of-00001.parquet`` with ``jpg_0``, ``jpg_1`` (plain bytes), ``label_0``, ``label_1`` and
    ``caption``.

    The scripts know two labels: 0.0 swaps the images, and everything else, 0.5 and null too, means that image 0 wins.
    So what does not decide is left out. Which image is image 0 follows from the row's id.
    """

    consumers = "the Diffusion-DPO scripts of diffusers and of Salesforce"

    def __init__(self, source: Source, options: ExportOptions) -> None:
        super().__init__(source, options)
        columns = source.columns
        self.pairs = read_pairs(source, options)
        self.margin = options.margin or 0.0
        self.decides_by = self.pairs.decides_by
        self._types = columns
        # Of kept and first images, two columns NAME and NAME_initial become NAME_0 and NAME_1, in the order of the
        # images. Of others only the score is known.
        self._paired = source.rated if isinstance(self.pairs, KeptAndFirst) else []
        initial = {f"{name}_initial" for name in self._paired}
        self._single = [n for n in metadata_columns(columns) if n not in self._paired and n not in initial]
        self._rated = self._paired or [SCORE]
        taken = [*RESERVED]
        for name in self._rated:
            taken += [f"{name}_0", f"{name}_1"]
        self._names = metadata_names(self._single, taken)
        self.reads = list(dict.fromkeys(["prompt", *self.pairs.images, *metadata_columns(columns)]))
        self._schema = self._make_schema()

    def open(self, folder: Path, counts: Mapping[str, int]) -> None:
        super().open(folder, counts)
        (folder / "data").mkdir()
        self._files = {split: _SplitFiles(folder / "data", split, self._schema) for split in counts}

    def refusal(self, row: Mapping[str, Any]) -> str | None:
        decided = self._decided(row)
        return decided if isinstance(decided, str) else None

    def add(self, row: Mapping[str, Any], split: str) -> str | None:
        values = self._decided(row)
        if isinstance(values, str):
            return values
        images = self.pairs.pictures(row)
        if images[0] == images[1]:
            return "where both images have the same bytes"
        one_wins = values[0] > values[1]
        one_is_0 = hashlib.blake2b(row["id"].encode(), digest_size=1).digest()[0] % 2 == 0
        order = (0, 1) if one_is_0 else (1, 0)
        record: dict[str, Any] = {
            "jpg_0": self.encoder.encode(images[order[0]]),
            "jpg_1": self.encoder.encode(images[order[1]]),
            "label_0": float(one_wins == one_is_0),
            "label_1": float(one_wins != one_is_0),
            "caption": row["prompt"],
        }
        for name in self._single:
            record[self._names[name]] = plain(row[name], self._types[name])
        for name in self._rated:
            both = (row[name], row[f"{name}_initial"]) if name in self._paired else values
            record[f"{name}_0"], record[f"{name}_1"] = both[order[0]], both[order[1]]
        self._files[split].add(record)
        return None

    def finish(self) -> None:
        for files in self._files.values():
            files.close()

    def usage(self) -> str:
        out = self.options.out
        return (
            f"diffusers: `train_diffusion_dpo.py --dataset_name={out} --dataset_split_name=train`. Pairs are labelled "
            f"by `{self.pairs.by}`: `label_0` is 1.0 where image 0 wins, else 0.0."
        )

    def _decided(self, row: Mapping[str, Any]) -> tuple[float, float] | str:
        """What rates the two images, or why the row makes no pair."""
        values = self.pairs.values(row)
        if isinstance(values, str):
            return values
        by = self.pairs.by
        one, other = values
        if one is None or other is None or math.isnan(one) or math.isnan(other):
            return f"without {by} of both images"
        if one == other:
            return f"where both images have the same {by}"
        if abs(one - other) < self.margin:
            return f"where {by} differs by less than {self.margin:g}"
        return one, other

    def _make_schema(self) -> pa.Schema:
        fields = [("jpg_0", pa.binary()), ("jpg_1", pa.binary()), ("label_0", pa.float64()), ("label_1", pa.float64())]
        fields.append(("caption", pa.string()))
        fields += [(self._names[name], plain_type(self._types[name])) for name in self._single]
        for name in self._rated:
            fields += [(f"{name}_0", pa.float64()), (f"{name}_1", pa.float64())]
        return pa.schema(fields)


class _SplitFiles:
    """The Parquet files of one split, of at most about :data:`FILE_BYTES` each."""

    def __init__(self, folder: Path, split: str, schema: pa.Schema) -> None:
        self._folder = folder
        self._split = split
        self._schema = schema
        self._rows: list[dict[str, Any]] = []
        self._group = 0  # bytes of images in the open row group
        self._file = 0  # and in the open file
        self._writer: pq.ParquetWriter | None = None
        self._paths: list[Path] = []

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        self._group += len(row["jpg_0"]) + len(row["jpg_1"])
        if self._group >= GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        """Write what waits, and give the files their names, which say how many there are."""
        self._flush()
        if self._writer is not None:
            self._writer.close()
        for path in self._paths:
            path.rename(path.with_name(f"{path.name}-of-{len(self._paths):05d}.parquet"))

    def _flush(self) -> None:
        if not self._rows:
            return
        if self._writer is None or self._file >= FILE_BYTES:
            if self._writer is not None:
                self._writer.close()
            self._paths.append(self._folder / f"{self._split}-{len(self._paths):05d}")
            self._writer = pq.ParquetWriter(self._paths[-1], self._schema, use_dictionary=False)
            self._file = 0
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._file += self._group
        self._rows = []
        self._group = 0
