"""The configs with which a run and its parts were started."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from noisesmith.pipeline.config import RunConfig, load_config
from noisesmith.pipeline.records import index_of
from noisesmith.pipeline.sinks.manifest import Manifest, read_manifest, salvage_manifest
from noisesmith.pipeline.sinks.run import started_manifest
from noisesmith.pipeline.storage.home import location_of


def first_config(config: RunConfig) -> RunConfig:
    """Return the config of the first part of a run, which its report describes; ``config`` is that of any part."""
    manifest = started_manifest(config)
    if manifest is None or not manifest.later:
        return config
    return config_of_run(config.run_dir)


def later_configs(run_dir: Path, manifest: Manifest) -> list[RunConfig]:
    """Return the configs of all parts of a run but the first.

    Raises:
        UserError: as for :func:`config_of_run`.
    """
    return [config_of_run(run_dir, number=part.number) for part in manifest.later]


def config_of_row(run_dir: Path, row: str) -> RunConfig:
    """The config of the part of a run in which the search of a row began; of the first part for what is no id.

    Raises:
        UserError: as for :func:`config_of_run`.
    """
    manifest = read_manifest(run_dir)
    number = 0
    with suppress(ValueError, LookupError):
        number = manifest.part_of_row(manifest.search_index(index_of(row))).number
    return config_of_run(run_dir, number=number)


def config_of_run(run_dir: Path, overrides: list[str] | None = None, number: int = 0) -> RunConfig:
    """The config that a run, or its part of a number, was started with; ``output.dir`` is where the run lies now.

    Raises:
        UserError: the directory is no run, or its config or an override is wrong.
    """
    manifest, _ = salvage_manifest(run_dir)
    path = run_dir / manifest.parts[number].config_file
    return load_config(path, overrides, {"output.dir": location_of(run_dir)})
