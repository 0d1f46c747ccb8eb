"""``webdataset``: tars of equal numbers of samples, shuffled over the whole export."""

from __future__ import annotations

import json
import pickle
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from noisesmith.pipeline.export.format import Format
from noisesmith.pipeline.export.options import TRAIN, ExportOptions
from noisesmith.pipeline.export.source import Source
from noisesmith.pipeline.schema import IMAGES, LISTED, NOISE_BYTES
from noisesmith.pipeline.sinks.samples import sample_json, text_columns

DEFAULT_ROWS = 1000


class WebDataset(Format):
    """``train/train-000000.tar``: ID.png, ID.txt (the prompt) and ID.json (the other columns, as in a run's tars).

    Every row has a random place. It goes into the spool file of its tar first; a tar is then written in the order of
    its places. So one row is in memory at a time, and the disk holds each row once, and one tar twice.
    """

    consumers = "`webdataset`, `datasets` and Ray Data"

    def __init__(self, source: Source, options: ExportOptions) -> None:
        super().__init__(source, options)
        columns = source.columns
        self.reads = [name for name in columns if name not in (IMAGES[1], LISTED, NOISE_BYTES)]
        self._text = text_columns(self.reads, version=2)
        self._rows = options.rows_per_shard or DEFAULT_ROWS

    def open(self, folder: Path, counts: Mapping[str, int]) -> None:
        super().open(folder, counts)
        self._places: dict[str, Any] = {}
        self._offsets: dict[str, array[int]] = {}
        self._taken = dict.fromkeys(counts, 0)
        (folder / "spool").mkdir()
        for number, (split, count) in enumerate(counts.items()):
            (folder / split).mkdir()
            self._places[split] = np.random.default_rng([self.options.seed, number]).permutation(count)
            self._offsets[split] = array("q", bytes(8 * count))

    def add(self, row: Mapping[str, Any], split: str) -> None:
        place = int(self._places[split][self._taken[split]])
        self._taken[split] += 1
        sample = {
            "__key__": row["id"],
            "txt": row["prompt"].encode(),
            "json": sample_json(row, self._text),
            self.encoder.extension: self.encoder.encode(row["image"]),
        }
        with self._spool(split, place // self._rows).open("ab") as spool:
            self._offsets[split][place] = spool.tell()
            pickle.dump(sample, spool)

    def finish(self) -> None:
        index = []
        for split, count in self._taken.items():
            for shard in range(-(-count // self._rows)):
                places = range(shard * self._rows, min((shard + 1) * self._rows, count))
                name = f"{split}/{split}-{shard:06d}.tar"
                self._write_tar(split, shard, places, self.folder / name)
                if split == TRAIN:
                    size = (self.folder / name).stat().st_size
                    index.append({"url": name, "nsamples": len(places), "filesize": size})
        (self.folder / "spool").rmdir()
        if self.options.wids:
            content = {
                "__kind__": "wids-shard-index-v1",
                "wids_version": 1,
                "name": self.options.out.name,
                "shardlist": index,
            }
            (self.folder / "wids.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def usage(self) -> str:
        out = self.options.out
        shards = -(-self._taken[TRAIN] // self._rows)
        urls = f"{out}/train/train-{{000000..{shards - 1:06d}}}.tar"
        key = self.encoder.extension
        return (
            "```python\nimport webdataset as wds\n\n"
            f'samples = wds.WebDataset("{urls}", shardshuffle=100).decode("pil").to_tuple("{key}", "txt")\n```\n\n'
            "The samples are shuffled already. Columns that may be null are JSON text in `json`, as in a run's tars."
        )

    def _spool(self, split: str, shard: int) -> Path:
        return self.folder / "spool" / f"{split}-{shard:06d}"

    def _write_tar(self, split: str, shard: int, places: range, target: Path) -> None:
        from webdataset import TarWriter  # imports torch, which other formats do not need

        path = self._spool(split, shard)
        options = {"user": "noisesmith", "group": "noisesmith", "mtime": 0, "encoder": False}
        with path.open("rb") as spool, target.open("xb") as file, TarWriter(file, **options) as tar:
            for place in places:
                spool.seek(self._offsets[split][place])
                tar.write(pickle.load(spool))
        path.unlink()
