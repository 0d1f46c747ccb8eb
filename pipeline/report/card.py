"""The dataset card of a run directory: what the images are, how they were made, and how to open them."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import jinja2
import pyarrow as pa
from huggingface_hub import DatasetCardData

from noisesmith.pipeline.acceptance import Acceptance, acceptance_lines, calibration_lines
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.models.locate import licence
from noisesmith.pipeline.records import Provenance
from noisesmith.pipeline.report.meanings import columns_of_rows, columns_of_side_tables
from noisesmith.pipeline.report.summary import Summary, labelled, notes, shown
from noisesmith.pipeline.report.usage import data_suffixes, usage
from noisesmith.pipeline.schema import schema_of
from noisesmith.pipeline.sinks.layout import manifest_file
from noisesmith.pipeline.sinks.manifest import Header, Manifest, read_manifest
from noisesmith.pipeline.sinks.samples import tar_features
from noisesmith.pipeline.storage.files import sha256_of, write_atomic

_COMBINED = {
    "mean": "the weighted geometric mean of the scores",
    "min": "the lowest of the scores",
    "rank": "the weighted geometric mean of the scores while searching; the kept image has the best mean rank",
}
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_INLINE = re.compile(r"([\\`*_\[\]|~$])")


def write_card(
    run_dir: Path,
    config: RunConfig,
    summary: Summary,
    provenance: Provenance,
    failed: int,
    acceptance: Acceptance | None,
) -> None:
    """Write ``README.md`` of a run directory, whole or not at all; ``failed`` counts the rows in ``failed/``."""
    card = render_card(run_dir, config, summary, provenance, failed, acceptance)
    write_atomic(run_dir / "README.md", card.encode())


def render_card(
    run_dir: Path,
    config: RunConfig,
    summary: Summary,
    provenance: Provenance,
    failed: int,
    acceptance: Acceptance | None = None,
) -> str:
    """The card as Markdown with YAML front matter.

    Of the files in ``data/`` it reads no more than the names.
    """
    suffixes = data_suffixes(run_dir)
    manifest = read_manifest(run_dir)
    header = manifest.header
    tables = manifest.side_columns
    is_alone = len(config.panel) == 1
    body = _template().render(
        name=config.name,
        rows=summary.rows,
        failed=failed,
        scored_by="A vision-language model" if is_alone else f"A panel of {len(config.panel)} models",
        score_meaning='P("Yes") of the scoring model' if is_alone else _COMBINED[config.combine or "mean"],
        searched=config.optimizer.rounds > 0,
        labelled=labelled(summary),
        judges=summary.judges,
        notes=notes(summary),
        shown=shown,
        accepted=_acceptance_lines(run_dir, acceptance) if acceptance else (),
        description=config.optimizer.describe(),
        rebuild=_how_to_rebuild(config),
        settings=_settings(config, provenance, manifest),
        usage=usage(run_dir, suffixes, list(tables)),
        columns=columns_of_rows(header, config) + columns_of_side_tables(tables),
        text_columns=header.text_columns if ".tar" in suffixes else (),
        embedded=_is_embedded(config),
    )
    # Parquet files state their types. For a run of version 1, nothing tells what a column that was null has in a tar.
    features = _features(header) if suffixes == [".tar"] and header.version_of_rows > 1 else None
    # `datasets` reads all configurations by the first one's reader, and side tables are Parquet.
    configured = tables if suffixes[:1] == [".parquet"] else ()
    metadata = _metadata(config, suffixes, summary.rows, _mark(run_dir), features, configured)
    return f"---\n{metadata.to_yaml()}\n---\n{body}"


def describes(run_dir: Path) -> bool:
    """Whether the card of a run directory describes the rows that it holds now."""
    card = run_dir / "README.md"
    return card.is_file() and _mark(run_dir) in card.read_text(encoding="utf-8")


def _mark(run_dir: Path) -> str:
    """The manifest's digest, as the card's front matter states it: another set of rows has another mark."""
    return f"manifest {sha256_of(manifest_file(run_dir))[:16]}"


def escape(value: object) -> str:
    """Text as inline Markdown on one line: it shows its own characters and has no markup or HTML of its own."""
    one_line = " ".join(str(value).split())
    return _INLINE.sub(r"\\\1", html.escape(one_line, quote=False))


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("noisesmith.pipeline.report", "templates"),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # the card is Markdown: values go through the `md` filter
        keep_trailing_newline=True,
    )
    environment.filters["md"] = escape
    return environment.get_template("card.md.j2")


def _metadata(
    config: RunConfig,
    suffixes: list[str],
    rows: int,
    mark: str,
    features: list[dict[str, object]] | None,
    tables: Iterable[str],
) -> DatasetCardData:
    """Front matter for the Hub.

    Only one format is configured: ``datasets`` reads all configurations of a folder with the first one's reader. The
    manifest's digest is in the description because ``datasets`` caches a local folder by its base name and the text of
    its configurations: without it, another run in a folder of the same name would be read from the cache.
    """
    configs: list[dict[str, object]] | None = None
    if suffixes:
        default: dict[str, object] = {
            "config_name": "default",
            "default": True,
            "description": f"{rows} rows, {mark}",
            "data_files": [{"split": "train", "path": f"data/*{suffixes[0]}"}],
        }
        configs = [default]
        for table in tables:
            configs.append(
                {
                    "config_name": table,
                    "description": f"side table, {mark}",
                    "data_files": [{"split": "train", "path": f"side/{table}/*.parquet"}],
                }
            )
    return DatasetCardData(
        license="apache-2.0" if _is_embedded(config) else "other",
        pretty_name=config.name,
        task_categories=["text-to-image"],
        size_categories=[_size_category(rows)],
        tags=["synthetic", "noisesmith", config.optimizer.method.replace("_", "-"), "image", "text"],
        license_name=None if _is_embedded(config) else "of-the-models-used",
        configs=configs,
        dataset_info={"features": features} if features else None,
    )


def _size_category(rows: int) -> str:
    for limit, label in _SIZES:
        if rows < limit:
            return label
    return "n>1M"


def _how_to_rebuild(config: RunConfig) -> str:
    """How a reader obtains a row's noise again: from its recipe, from the stored noise, or not at all."""
    command = "`noisesmith replay` makes the image again."
    if config.optimizer.folds:
        return f"The `recipe` column rebuilds a row's noise exactly: {command}"
    if config.stores_noise:
        return f"No recipe rebuilds the noise of this method, so the `noise_fp16` column stores the noise: {command}"
    return (
        "No recipe rebuilds the noise of this method, and this run did not store it (`output.noise: false`), so an "
        "image cannot be rebuilt."
    )


def _acceptance_lines(run_dir: Path, acceptance: Acceptance) -> list[str]:
    return [*acceptance_lines(acceptance), *calibration_lines(run_dir, acceptance.rule)]


def _settings(config: RunConfig, provenance: Provenance, manifest: Manifest) -> list[tuple[str, object]]:
    """The table of settings: (name, value)."""
    generators = config.generators
    corpora: list[str] = []
    for part in config.corpus:
        corpora.append(f"{part.source} ({part.size} rows)" if part.size else part.source)
    search: list[str] = [config.optimizer.method]
    # The paragraph about the method says all about previews.
    for key, value in config.optimizer.model_dump(exclude_none=True, exclude={"method", "preview"}).items():
        search.append(f"{key} {value}")
    judges = [f"{judge.name} ({judge.model})" for judge in config.judges]
    judges += [f"{table} ({model}), afterwards" for table, model in _models_of_tables(manifest).items()]
    stated = "apache-2.0" if _is_embedded(config) else licence(generators.model, generators.revision)
    settings: list[tuple[str, object]] = [
        ("prompts", ", ".join(corpora)),
        ("diffusion model", f"{provenance.generator}, revision {provenance.generator_revision}"),
        ("its licence", stated or "not stated where the model was found"),
        ("sampler", f"{generators.scheduler}, {generators.steps} steps, guidance {generators.guidance_scale:g}"),
        ("scoring model", f"{provenance.scorer}, revision {provenance.scorer_revision}"),
        *_asked(config),
        ("readout", provenance.readout),
        ("judges", ", ".join(judges) or "none"),
        ("search", ", ".join(search)),
        ("seed", config.seed),
    ]
    if generators.negative_prompt:
        settings.append(("negative prompt", generators.negative_prompt))
    return settings


def _models_of_tables(manifest: Manifest) -> dict[str, str]:
    """The model that filled each side table, where one did."""
    models: dict[str, str] = {}
    for entry in manifest.side.values():
        if "model" in entry.origin:
            models[entry.table] = f"{entry.origin['model']}, revision {entry.origin.get('revision')}"
    return models


def _asked(config: RunConfig) -> list[tuple[str, object]]:
    """The question of each scorer, and how several become one score."""
    panel = config.panel
    if len(panel) == 1:
        return [("question", panel[0].question)]
    rows: list[tuple[str, object]] = []
    for member in panel:
        part = f"weight {member.weight:g}" if member.gradient else f"weight {member.weight:g}, without its gradient"
        rows.append((f"scorer {member.name}", f"{member.model}, {part}: {member.question}"))
    return [*rows, ("combined by", _COMBINED[config.combine or "mean"])]


def _features(header: Header) -> list[dict[str, object]]:
    """The types of a run's tars as the Hub's metadata states them, so that no reader has to infer them."""
    text = header.text_columns
    columns = {name: "string" if name in text else kind for name, kind in header.columns.items()}
    features: list[dict[str, object]] = tar_features(schema_of(columns, pa.schema([])), text)._to_yaml_list()
    return features


def _is_embedded(config: RunConfig) -> bool:
    return config.generators.model == "embedded"
