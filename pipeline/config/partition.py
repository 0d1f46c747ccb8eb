"""Which shards of a dataset one of several independent runs makes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer


@dataclass(frozen=True)
class Partition:
    """One of ``of`` runs that make one dataset together; ``number`` counts from 1. Shards are dealt to them in turn.

    In turn, because a corpus is often in an order, and rows of one kind take longer than rows of another.

    Raises:
        ValueError: there is no such run among them.
    """

    number: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise ValueError(f"{self} names no partition; the first i in i/n is 1 and the last one n")

    @classmethod
    def parse(cls, value: object) -> Partition:
        """Return the partition that a text such as ``2/8`` names; a partition is returned as it is.

        Raises:
            ValueError: it names none.
        """
        if isinstance(value, Partition):
            return value
        if not isinstance(value, str) or not re.fullmatch(r"[0-9]{1,9}/[0-9]{1,9}", value):
            raise ValueError(f"{value!r} names no partition; write i/n, such as 2/8 for the second of eight")
        number, of = map(int, value.split("/"))
        return cls(number, of)

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def owns(self, shard: int) -> bool:
        """Return whether this run makes a shard; shards count from 0."""
        return shard % self.of == self.number - 1

    def shards(self, total: int) -> range:
        """Return the shards that this run makes of ``total``."""
        return range(self.number - 1, total, self.of)

    def rows(self, size: int, rows_per_shard: int) -> int:
        """Return how many rows this run makes of ``size`` in shards of ``rows_per_shard``, the last may have fewer."""
        total = -(-size // rows_per_shard)
        full = len(self.shards(total)) * rows_per_shard
        has_last = total > 0 and self.owns(total - 1)
        return full - (total * rows_per_shard - size) if has_last else full


# A text such as 2/8 in YAML and on the command line.
PartitionField = Annotated[Partition, BeforeValidator(Partition.parse), PlainSerializer(str)]
