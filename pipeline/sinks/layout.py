"""Which rows form which shard, and the names of a run's files. Both follow from corpus sizes and configs alone."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from noisesmith.pipeline.config import Partition
from noisesmith.pipeline.storage.paths import is_remote

EXTENSIONS = {"parquet": "parquet", "webdataset": "tar"}
DATA_FILE = re.compile(r"train-\d{5,}-of-\d{5,}\.(parquet|tar)")
SIDE_FILE = re.compile(r"train-(\d{5,})-of-\d{5,}\.parquet")
_PATTERNS = ("*", "?", "[", "]", "::")  # what `datasets` and fsspec do not read as part of a name
SHARD_NAME = re.compile(r"shard-(\d{5,})(\.jsonl)?")


@dataclass(frozen=True)
class ShardLayout:
    """The shards of a part of a run: of S = ``rows_per_shard`` rows each, the last one may have fewer.

    The part has ``size`` rows from ``first_row`` on, and its shards are numbered from ``first_shard`` on. Where the run
    is a ``partition``, other runs make some of these shards: numbers and names are those of all shards.

    Parquet files are in ``data/``. Tars are in ``tar_folder``: readers of a whole folder expect one kind of file in it.
    """

    size: int
    rows_per_shard: int
    tar_folder: str = "tars"
    first_row: int = 0
    first_shard: int = 0
    partition: Partition | None = None

    @property
    def shards(self) -> int:
        """How many shards the part has, whichever run makes them."""
        return -(-self.size // self.rows_per_shard)

    @property
    def numbers(self) -> range:
        """The numbers of the part's shards that this run makes."""
        if self.partition is not None:
            return self.partition.shards(self.shards)  # a partition has one part, which begins at shard 0
        return range(self.first_shard, self.first_shard + self.shards)

    @property
    def own_rows(self) -> int:
        """How many rows the shards have that this run makes."""
        if self.partition is not None:
            return self.partition.rows(self.size, self.rows_per_shard)
        return self.size

    def shard_of(self, index: int) -> int:
        """Return the shard of a row.

        Raises:
            IndexError: the part has no such row.
        """
        if not 0 <= index - self.first_row < self.size:
            raise IndexError(f"row {index} of {self.size} from {self.first_row} on")
        return self.first_shard + (index - self.first_row) // self.rows_per_shard

    def rows(self, shard: int) -> range:
        """Return the indices of a shard's rows."""
        start = self.first_row + (shard - self.first_shard) * self.rows_per_shard
        return range(start, min(start + self.rows_per_shard, self.first_row + self.size))

    def data_file(self, shard: int, kind: str) -> str:
        """Return the name of a shard's file, relative to the run directory; ``kind`` is a key of ``EXTENSIONS``."""
        return f"{self.folder(kind)}/{self._name(shard)}.{EXTENSIONS[kind]}"

    def folder(self, kind: str) -> str:
        """Return the folder of a format's files, relative to the run directory."""
        return self.tar_folder if kind == "webdataset" else "data"

    def pattern(self, kind: str) -> str:
        """Return the pattern of a format's files, relative to the run directory."""
        return f"{self.folder(kind)}/*.{EXTENSIONS[kind]}"

    def side_file(self, shard: int, table: str) -> str:
        """Return the name of a shard's file of a side table, relative to the run directory."""
        return f"side/{table}/{self._name(shard)}.parquet"

    def _name(self, shard: int) -> str:
        # The second number counts the shards up to the end of this part, so a further part renames no file.
        return f"train-{shard:05d}-of-{self.first_shard + self.shards:05d}"


def unopenable(run_dir: Path) -> str | None:
    """Return why ``load_dataset`` could not open a dataset in a directory, as half a sentence; ``None`` where it can.

    ``datasets`` resolves the path, replaces environment variables, and reads the result as a pattern.
    """
    if is_remote(run_dir):
        return None  # such a URL is refused with the config
    path = os.path.realpath(run_dir)
    for pattern in _PATTERNS:
        if pattern in path:
            return f"`datasets` reads {pattern} in a path as a pattern, and could not open a dataset in {path}"
    if os.path.expandvars(path) != path:
        return f"`datasets` replaces the environment variable in a path, and could not open a dataset in {path}"
    return None


def shard_name(shard: int) -> str:
    """Return the name that a shard's staging folder and its file of dead letters share."""
    return f"shard-{shard:05d}"


def manifest_file(run_dir: Path) -> Path:
    return run_dir / "manifest.jsonl"


def staging_root(run_dir: Path) -> Path:
    return run_dir / "staging"


def staging_dir(run_dir: Path, shard: int) -> Path:
    return staging_root(run_dir) / shard_name(shard)


def side_root(run_dir: Path) -> Path:
    return run_dir / "side"


def letters_file(run_dir: Path, shard: int) -> Path:
    return run_dir / "failed" / f"{shard_name(shard)}.jsonl"
