"""What a published dataset consists of: an allow-list of files, each with its size and SHA-256."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but imported lazily

from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.publish.private import Disguise, private_parts
from noisesmith.pipeline.report import describes, published_card
from noisesmith.pipeline.sinks import config_of_run, later_configs, read_rows
from noisesmith.pipeline.sinks.manifest import Manifest, read_manifest

PER_COMMIT = 100  # files; the Hub limits the commits per hour
CARD = "README.md"
SHEET = "contact_sheet.png"


@dataclass(frozen=True)
class PublishedFile:
    """A file of the dataset: its path in the repository, and where its content is, or the content itself."""

    path: str
    content: Path | bytes
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Plan:
    """What is to be published, data first and the card last.

    ``lacking`` are the files of side tables that the run does not have, since their shards have other rows by now.
    """

    repository: str
    files: tuple[PublishedFile, ...]
    lacking: frozenset[str] = frozenset()

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)

    @property
    def commits(self) -> int:
        """The commits of a first upload."""
        return -(-len(self.files) // PER_COMMIT)


def make_plan(run_dir: Path, repository: str, *, allow_paths: bool = False) -> Plan:
    """Decide what is published of a finished run. Needs no network.

    Only data files that the manifest lists, the contact sheet and a card written for the repository are: no log, dead
    letter, lock, configuration or manifest, which name machines, folders and servers.

    Args:
        repository: OWNER/NAME.
        allow_paths: publish rows although they name the local path or the address of a model.

    Raises:
        UserError: the run is not finished, or its rows or card would name a path or an address.
    """
    _check_repository(repository)
    manifest = read_manifest(run_dir)
    config = config_of_run(run_dir)
    _check_finished(run_dir, manifest)
    if not allow_paths:
        _check_rows(run_dir)
    files = [*_data_files(run_dir, manifest)]
    files.append(in_memory(SHEET, (run_dir / SHEET).read_bytes()))
    files.append(in_memory(CARD, _card(run_dir, config, manifest, repository).encode()))
    lacking = {
        manifest.part_of(shard).layout.side_file(shard, table)
        for table in manifest.side_columns
        for shard in manifest.entries
        if manifest.current(table, shard) is None
    }
    return Plan(repository, tuple(files), frozenset(lacking))


def _check_repository(repository: str) -> None:
    try:
        validate_repo_id(repository)
        named = repository.count("/") == 1
    except HFValidationError:
        named = False
    if not named:
        raise UserError(f"REPO_ID: {repository!r} names no repository; give OWNER/NAME, such as my-name/my-dataset")


def _check_finished(run_dir: Path, manifest: Manifest) -> None:
    if manifest.missing:
        raise UserError(
            f"{run_dir}: {manifest.missing} of {manifest.shards} shards are not committed yet; finish the run with "
            "noisesmith retry, then publish it"
        )
    if not manifest.filled:
        raise UserError(f"{run_dir}: holds no rows, since all have failed; see noisesmith retry")
    if not describes(run_dir) or not (run_dir / SHEET).is_file():
        raise UserError(f"{run_dir}: its report is not of the rows that it holds; run its config again to renew it")


def _check_rows(run_dir: Path) -> None:
    """Refuse rows that name a path or an address of a model; every row of a run names the same models."""
    row = next(read_rows(run_dir, ["generator", "scorer"]))
    found = private_parts(row.values())
    if found:
        raise UserError(
            f"{run_dir}: every row names {found[0]!r}, the place of a model on your machines, in the column generator "
            "or scorer; publish it with --allow-paths, or make the run with a model from the Hub"
        )


def _card(run_dir: Path, config: RunConfig, manifest: Manifest, repository: str) -> str:
    origins = (side.origin for side in manifest.side.values())
    disguise = Disguise(run_dir, [config, *later_configs(run_dir, manifest)], origins)
    card = published_card(run_dir, config, repository, disguise.hide)
    left = disguise.found_in(card)
    if left:
        raise UserError(f"{run_dir}: its card would show {left[0]!r}; change the name in its config.yaml")
    return card


def _data_files(run_dir: Path, manifest: Manifest) -> Iterator[PublishedFile]:
    for _, entry in sorted(manifest.entries.items()):
        for file in entry.files:
            yield PublishedFile(file.path, run_dir / file.path, file.bytes, file.sha256)
    for _, side in sorted(manifest.side.items()):
        if manifest.is_current(side):
            path = manifest.part_of(side.shard).layout.side_file(side.shard, side.table)
            yield PublishedFile(path, run_dir / path, side.bytes, side.sha256)


def in_memory(path: str, content: bytes) -> PublishedFile:
    """Return a file of the dataset whose content is given."""
    return PublishedFile(path, content, len(content), hashlib.sha256(content).hexdigest())
