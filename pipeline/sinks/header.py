"""The header of a part of a run: what one command adds to it, ``run`` the first part and ``extend`` further ones.

Rows and shards are numbered through all parts, so that ids and names of files are unique in the whole run.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from noisesmith.pipeline.config import Partition
from noisesmith.pipeline.schema import LISTED
from noisesmith.pipeline.sinks.layout import ShardLayout
from noisesmith.pipeline.sinks.samples import text_columns

# 2: tars hold every column that may be null as JSON text. 5: tars are in a folder of their own, without first images
# unless the config asks for them; images are marked as synthetic.
VERSION = 5
# What its first side table makes of a run's version: an older program would take its lines for damage and drop them.
# Programs that know version 5 know side tables.
WITH_SIDE_TABLES = {1: 3, 2: 4}
# What its second part makes of a run's version: an older program does not know parts.
EXTENDED = {1: 6, 2: 7, 3: 6, 4: 7, 5: 8}
# A partition of a run of version 5: an older program would wait for shards that other runs make.
PARTITIONED = 9
NEWEST = PARTITIONED
_ROWS_AS_IN = {3: 1, 4: 2, 6: 1, 7: 2, 8: 5, 9: 5}

# When a search stops: besides the corpus, all that may differ between the parts of a run.
STOP_RULES = ("optimizer.rounds", "optimizer.target_score", "optimizer.patience", "optimizer.unet_evaluations")


@dataclass(frozen=True)
class Header:
    """What a part of a run is, written once when it starts. Most runs have one part, whose header is the run's.

    ``version`` is the format of the run's files; a resumed run keeps it, and an older program refuses a newer one.
    ``config`` holds the config fields that decide its rows, ``columns`` the name of each column's Arrow type, in the
    order of the columns. A resumed run keeps this layout, these columns and these types, also under a newer version.

    ``rows`` and ``shards`` count those of the part, which has the ``number`` and begins at ``first_row`` and
    ``first_shard``. A part that continues searches has in ``parents`` the index of the row that each of its rows goes
    on from, and in ``below`` the score below which these were.

    Where the run is a ``partition``, it makes some of these shards and their rows, and other runs make the others. It
    has one part.
    """

    version: int
    config: dict[str, Any]
    config_digest: str
    corpus_digest: str
    rows: int
    rows_per_shard: int
    shards: int
    formats: tuple[str, ...]
    columns: dict[str, str]
    number: int = 0
    first_row: int = 0
    first_shard: int = 0
    parents: tuple[int, ...] = ()
    below: float | None = None
    partition: Partition | None = None

    @property
    def layout(self) -> ShardLayout:
        tar_folder = "tars" if self.version_of_rows >= 5 else "data"
        return ShardLayout(self.rows, self.rows_per_shard, tar_folder, self.first_row, self.first_shard, self.partition)

    @property
    def config_file(self) -> str:
        """The name of the file in the run directory with the part's whole config."""
        return f"config-part{self.number}.yaml" if self.number else "config.yaml"

    @property
    def version_of_rows(self) -> int:
        """The version that says how the run's rows are stored, whether it has side tables or not."""
        return _ROWS_AS_IN.get(self.version, self.version)

    @property
    def marks_images(self) -> bool:
        """Whether the run's images are marked as synthetic (``noisesmith.pipeline.xmp``)."""
        return self.version_of_rows >= 5

    @property
    def tar_columns(self) -> tuple[str, ...]:
        """The columns that tars hold: all but the images of rounds and, unless asked for, the first images."""
        left_out = {LISTED}
        if self.version_of_rows >= 5 and not self.config.get("output.tar_image_initial"):
            left_out.add("image_initial")
        return tuple(name for name in self.columns if name not in left_out)

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns that tars hold as JSON text."""
        return text_columns(self.columns, self.version_of_rows)


# What the headers of most runs do not hold, since older programs do not know it: the first part leaves the fields of
# later parts at their defaults, and only partitions have the other one.
_OF_LATER_PARTS = ("number", "first_row", "first_shard", "parents", "below")
_OF_PARTITIONS = "partition"


def header_record(parts: list[Header]) -> dict[str, Any]:
    """Return the first line of a manifest. For a run with one part it is what older programs read."""
    first, *later = map(asdict, parts)
    for name in _OF_LATER_PARTS:
        del first[name]
    for fields in (first, *later):
        if fields[_OF_PARTITIONS] is None:
            del fields[_OF_PARTITIONS]
    record = {"kind": "run", **first}
    if later:
        record["parts"] = later
    return record


def read_headers(line: dict[str, Any] | None) -> list[Header]:
    """Return the headers of all parts from the first line of a manifest.

    Raises:
        ValueError, TypeError, KeyError: the line is no header.
    """
    if line is None or line.pop("kind", None) != "run" or line.get("version") not in range(1, NEWEST + 1):
        raise ValueError(f"line 1 is no header of version 1 to {NEWEST}")
    later = line.pop("parts", [])
    parts = [_header(line)]
    parts.extend(_header(record) for record in later)
    rows = 0
    shards = 0
    for number, part in enumerate(parts):
        if (part.number, part.first_row, part.first_shard) != (number, rows, shards):
            raise ValueError(f"line 1 has a part {part.number} that does not begin where the one before it ends")
        if part.parents and (len(part.parents) != part.rows or not all(0 <= row < rows for row in part.parents)):
            raise ValueError(f"line 1 has a part {number} that goes on from rows which are not in parts before it")
        rows += part.rows
        shards += part.shards
    if later and any(part.partition for part in parts):
        raise ValueError("line 1 has a partition with more than one part")
    return parts


def _header(record: dict[str, Any]) -> Header:
    formats = tuple(record.pop("formats"))
    parents = tuple(record.pop("parents", ()))
    dealt = record.pop(_OF_PARTITIONS, None)
    partition = None if dealt is None else Partition(**dealt)
    return Header(**record, formats=formats, parents=parents, partition=partition)
