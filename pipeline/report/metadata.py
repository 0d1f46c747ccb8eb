"""The front matter of a dataset card: what the Hub and ``datasets`` read of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa
from huggingface_hub import DatasetCardData

from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.embedded import NAMES
from noisesmith.pipeline.models.locate import licence
from noisesmith.pipeline.schema import schema_of
from noisesmith.pipeline.sinks.configs import later_configs
from noisesmith.pipeline.sinks.header import Header
from noisesmith.pipeline.sinks.manifest import Manifest
from noisesmith.pipeline.sinks.reader import read_features
from noisesmith.pipeline.sinks.samples import tar_features

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_HUB_MODEL = re.compile(r"[\w.-]+/[\w.-]+")
Features = list[dict[str, object]]


def card_data(
    run_dir: Path, config: RunConfig, manifest: Manifest, patterns: Mapping[str, str], rows: int, mark: str
) -> DatasetCardData:
    """The front matter of a run's card.

    Only one format is configured: ``datasets`` reads all configurations of a folder with the first one's reader.

    Args:
        patterns: the pattern of the data files of each format that was written, the preferred one first.
        mark: text that differs for another set of rows. It is in the description because ``datasets`` caches a local
            folder by its base name and the text of its configurations: without it, another run in a folder of the same
            name would be read from the cache.
    """
    configs: list[dict[str, object]] = []
    features: dict[str, Features] = {}
    if patterns:
        kind, pattern = next(iter(patterns.items()))
        default = _configuration("default", f"{rows} rows, {mark}", pattern)
        configs.append(default | {"default": True})
        stated = _features(run_dir, manifest, kind)
        if stated:
            features["default"] = stated
        if kind == "parquet":
            for table in manifest.side_columns:
                stated = _side_features(run_dir, manifest, table)
                if stated:
                    configs.append(_configuration(table, f"side table, {mark}", f"side/{table}/*.parquet"))
                    features[table] = stated
    licence_name, link = _licence(config)
    return DatasetCardData(
        language=_languages([config, *later_configs(run_dir, manifest)]),
        pretty_name=config.name,
        task_categories=["text-to-image"],
        size_categories=[_size_category(rows)],
        annotations_creators=["machine-generated"],
        tags=["synthetic", "noisesmith", config.optimizer.method.replace("_", "-"), "image", "text"],
        configs=configs or None,
        dataset_info=_dataset_info(features),
        license="other" if link else licence_name,
        license_name=licence_name if link else None,
        license_link=link,
    )


def is_embedded(config: RunConfig) -> bool:
    """Whether the images are those of the built-in model."""
    return config.generators.model in NAMES["generators"]


def _configuration(name: str, description: str, pattern: str) -> dict[str, object]:
    return {
        "config_name": name,
        "description": description,
        "data_files": [{"split": "train", "path": pattern}],
    }


def _dataset_info(features: Mapping[str, Features]) -> object:
    """The column types of each configuration, in the form that ``datasets`` gives one or several of them."""
    infos = [{"config_name": name, "features": types} for name, types in features.items()]
    if len(infos) == 1:
        return {"features": infos[0]["features"]}
    return infos or None


def _features(run_dir: Path, manifest: Manifest, kind: str) -> Features | None:
    """The types of a run's rows in one format, so that no reader has to infer them."""
    if kind == "parquet":
        # A later part of the run may have a column more; of those with as many, the first is as good as any.
        widest = max(manifest.filled, key=lambda shard: (len(manifest.part_of(shard).columns), -shard))
        stated: Features = read_features(run_dir / manifest.entries[widest].readable)._to_yaml_list()
        return stated
    # For a run of version 1, nothing says which type a column that was null has in a tar.
    if manifest.header.version_of_rows == 1:
        return None
    return _tar_features(max(manifest.parts, key=lambda part: len(part.columns)))


def _tar_features(header: Header) -> Features:
    text = header.text_columns
    columns = {name: "string" if name in text else header.columns[name] for name in header.tar_columns}
    features: Features = tar_features(schema_of(columns, pa.schema([])), text)._to_yaml_list()
    return features


def _side_features(run_dir: Path, manifest: Manifest, table: str) -> Features | None:
    """The types of a side table, the same in each of its files; ``None`` where no file is of the rows of now."""
    for entry in manifest.side.values():
        if entry.table == table and manifest.is_current(entry):
            path = run_dir / manifest.part_of(entry.shard).layout.side_file(entry.shard, table)
            stated: Features = read_features(path)._to_yaml_list()
            return stated
    return None


def _languages(configs: Iterable[RunConfig]) -> list[str]:
    named = [section.language for config in configs for section in config.corpus]
    return list(dict.fromkeys(named)) or ["en"]


def _licence(config: RunConfig) -> tuple[str, str | None]:
    """The licence of the images, that of the model which made them: its name and, where it has terms, their address."""
    if is_embedded(config):
        return "apache-2.0", None
    generators = config.generators
    stated = licence(generators.model, generators.revision) or ""
    name = re.sub(r"[^a-z0-9.-]+", "-", stated.lower()).strip("-")
    on_hub = _HUB_MODEL.fullmatch(generators.model) is not None
    link = f"https://huggingface.co/{generators.model}" if on_hub else "README.md#licence"
    return name or "of-the-models-used", link


def _size_category(rows: int) -> str:
    for limit, label in _SIZES:
        if rows < limit:
            return label
    return "n>1M"
