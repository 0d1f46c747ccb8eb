"""The partitions that are to be joined: read, and refused where they are not those of one dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from noisesmith.pipeline.acceptance import ACCEPTED, rule_in_force, rule_text
from noisesmith.pipeline.config import Partition, RunConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.sinks import config_of_run
from noisesmith.pipeline.sinks.header import Header
from noisesmith.pipeline.sinks.manifest import Entry, Manifest, SideEntry, SideKey, read_manifest
from noisesmith.pipeline.sinks.reader import read_shard
from noisesmith.pipeline.sinks.run import MODEL_COLUMNS
from noisesmith.pipeline.storage.home import shell_word

NAMED = 5  # of the partitions that are missing


@dataclass(frozen=True)
class PartitionRun:
    """One partition, as its directory holds it; ``manifest`` is of one moment."""

    run_dir: Path
    partition: Partition
    manifest: Manifest

    @property
    def header(self) -> Header:
        return self.manifest.header

    def side(self) -> Iterator[SideEntry]:
        """Yield the files of side tables that belong to the rows committed now."""
        return filter(self.manifest.is_current, self.manifest.side.values())


def find_partitions(run_dirs: Sequence[Path], *, allow_missing: bool) -> list[PartitionRun]:
    """Read the manifests of partitions, in the order of their numbers.

    Args:
        allow_missing: whether partitions may be absent or unfinished.

    Raises:
        UserError: one is no partition or comes twice, they are not of one dataset, or something is missing.
    """
    found = sorted(map(_read, run_dirs), key=lambda run: run.partition.number)
    first, *others = found
    settings = config_of_run(first.run_dir)
    for other in others:
        _check_same_dataset(first, other, settings)
    for one, next_one in zip(found, others, strict=False):
        if one.partition == next_one.partition:
            raise UserError(
                f"{next_one.run_dir}: is the partition {one.partition}, and so is {one.run_dir}; give each one once"
            )
    if not allow_missing:
        _check_complete(found)
    if not any(run.manifest.entries for run in found):
        raise UserError(f"{first.run_dir}: no shard of these partitions is committed yet; let them write some first")
    _check_same_models(found)
    _check_tables(found)
    return found


def join(found: Sequence[PartitionRun]) -> Manifest:
    """Return the manifest of the whole run: what an undivided run of the same shards would have written."""
    first = found[0].header
    entries: dict[int, Entry] = {}
    side: dict[SideKey, SideEntry] = {}
    for run in found:
        entries |= run.manifest.entries
        side |= {(entry.table, entry.shard): entry for entry in run.side()}
    return Manifest(replace(first, version=first.version_of_rows, partition=None), entries, side)


def _read(run_dir: Path) -> PartitionRun:
    manifest = read_manifest(run_dir)
    partition = manifest.header.partition
    if partition is None:
        raise UserError(f"{run_dir}: is a whole run; give directories that noisesmith run --partition i/n has written")
    return PartitionRun(run_dir, partition, manifest)


def _check_same_dataset(first: PartitionRun, other: PartitionRun, settings: RunConfig) -> None:
    """Refuse a partition of another dataset; ``settings`` is the config of the first one."""
    remedy = "merge the partitions of one dataset"
    changes = settings.differences(other.header.config)
    if changes:
        raise UserError(
            f"{other.run_dir}: was made with another config than {first.run_dir}: {'; '.join(changes)}; {remedy}"
        )
    for name in ("corpus_digest", "rows"):
        one, another = getattr(first.header, name), getattr(other.header, name)
        if one != another:
            raise UserError(
                f"{other.run_dir}: was made from another corpus than {first.run_dir}: its {name} was {another} and is "
                f"now {one}; {remedy}"
            )
    if other.partition.of != first.partition.of:
        raise UserError(
            f"{other.run_dir}: is the partition {other.partition}, and {first.run_dir} is {first.partition}, so they "
            f"have shards in common or lack some; {remedy}, which all have the same n"
        )
    for name in ("version_of_rows", "formats", "columns"):
        if _listed(getattr(first.header, name)) != _listed(getattr(other.header, name)):
            raise UserError(
                f"{other.run_dir}: was made by another version of noisesmith than {first.run_dir}, and its {name} "
                "differ; make one of them again"
            )


def _listed(value: Any) -> Any:
    return list(value.items()) if isinstance(value, dict) else value


def _check_complete(found: Sequence[PartitionRun]) -> None:
    of = found[0].partition.of
    missing = sorted({*range(1, of + 1)} - {run.partition.number for run in found})
    if missing:
        names = ", ".join(f"{number}/{of}" for number in missing[:NAMED])
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        raise UserError(
            f"PARTITION: {names}{more} of the partitions are missing; give their directories too, or merge the others "
            "with --allow-missing"
        )
    for run in found:
        if run.manifest.missing:
            raise UserError(
                f"{run.run_dir}: {run.manifest.missing} of its {run.manifest.shards} shards are not committed yet; "
                f"finish it with noisesmith retry {shell_word(run.run_dir)}, or merge what is there with "
                "--allow-missing"
            )


def _check_same_models(found: Sequence[PartitionRun]) -> None:
    """Refuse rows of other weights, which no run mixes."""
    before: tuple[Path, dict[str, Any]] | None = None
    for run in found:
        row = _first_row(run)
        if row is None:
            continue
        if before is None:
            before = (run.run_dir, row)
        for name in MODEL_COLUMNS:
            if row[name] != before[1][name]:
                raise UserError(
                    f"{run.run_dir}: the {name} of its rows is {row[name]!r}, and in {before[0]} it is "
                    f"{before[1][name]!r}; make one of them again with the models of the other"
                )


def _first_row(run: PartitionRun) -> dict[str, Any] | None:
    """Return the models that the first row names; ``None`` where all rows have failed."""
    for _, entry in sorted(run.manifest.entries.items()):
        for row in read_shard(run.run_dir, run.manifest, entry, MODEL_COLUMNS):
            return row
    return None


def _check_tables(found: Sequence[PartitionRun]) -> None:
    """Refuse side tables that cannot be one table, or that two models have filled."""
    seen: dict[str, tuple[Path, SideEntry]] = {}
    tables: dict[str, str] = {}  # by column
    for run in found:
        for entry in run.side():
            where, one = seen.setdefault(entry.table, (run.run_dir, entry))
            is_same = entry.table == ACCEPTED or entry.origin == one.origin  # a rule's origin names files of the shard
            if entry.columns != one.columns or not is_same:
                raise UserError(
                    f"{run.run_dir}: its side table {entry.table} was made otherwise than that of {where} "
                    f"({entry.origin} and {one.origin}); make it again in one of them with noisesmith rescore --replace"
                )
            for column in entry.columns:
                if tables.setdefault(column, entry.table) != entry.table:
                    raise UserError(
                        f"{run.run_dir}: its side table {entry.table} has a column {column!r}, which another partition "
                        f"has in {tables[column]}; make one of these tables again under the name of the other"
                    )
    _check_rules(found)


def _check_rules(found: Sequence[PartitionRun]) -> None:
    rules = [(run.run_dir, rule) for run in found if (rule := rule_in_force(run.manifest)) is not None]
    for run_dir, rule in rules[1:]:
        where, first = rules[0]
        if rule != first:
            raise UserError(
                f"{run_dir}: its acceptance rule ({rule_text(rule)}) is not that of {where} ({rule_text(first)}); "
                "evaluate one rule in both with noisesmith accept"
            )
