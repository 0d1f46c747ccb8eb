"""The dataset card of a run directory: what the images are, how they were made, and how to open them."""

from __future__ import annotations

import html
import re
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import pyarrow.parquet as pq
from huggingface_hub import DatasetCardData

from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.models.locate import licence
from noisesmith.pipeline.records import Provenance
from noisesmith.pipeline.report.summary import Summary, labelled, notes, shown
from noisesmith.pipeline.sinks.layout import manifest_file
from noisesmith.pipeline.storage.files import sha256_of, write_atomic

_MEANINGS = {
    "id": "stable id of the row",
    "prompt": "what the image should show",
    "image": "the kept image: the best one seen",
    "image_initial": "the image of the first noise, before any search",
    "score": 'P("Yes") of the kept image, 0 to 1',
    "score_initial": 'P("Yes") of the first image',
    "scores": "the score of every image made for the row, the first image's first",
    "steps": "sampler steps of each of these images; fewer than the first's mark a preview, which is never kept",
    "evaluations": "U-Net evaluations of each: denoising steps, guidance included",
    "rounds": "search rounds after the first image",
    "stop_reason": "why the search of this row ended",
    "seed": "seed of the row's noises",
    "recipe": "what rebuilds the kept image's noise",
    "noise": "the kept noise against N(0, I): mean, std, norm (‖z_T‖/√D), Kolmogorov-Smirnov distance",
    "noise_fp16": "the kept noise itself, float16 little-endian in the shape of the recipe",
    "optimizer": "search method",
    "generator": "diffusion model",
    "generator_revision": "its revision",
    "scorer": "vision-language model that steered",
    "scorer_revision": "its revision",
    "readout": "how its answer became a score",
    "width": "pixels",
    "height": "pixels",
}
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_INLINE = re.compile(r"([\\`*_\[\]|~$])")


def write_card(
    run_dir: Path, config: RunConfig, summary: Summary, provenance: Provenance, rows: int, failed: int
) -> None:
    """Write ``README.md`` of a run directory, whole or not at all; ``rows`` and ``failed`` count rows on disk."""
    write_atomic(run_dir / "README.md", render_card(run_dir, config, summary, provenance, rows, failed).encode())


def render_card(
    run_dir: Path, config: RunConfig, summary: Summary, provenance: Provenance, rows: int, failed: int
) -> str:
    """The card as Markdown with YAML front matter. Reads the names, never the rows, of ``run_dir``'s data files."""
    files = _data_files(run_dir)
    body = _template().render(
        name=config.name,
        rows=rows,
        failed=failed,
        labelled=labelled(summary),
        judges=summary.judges,
        notes=notes(summary),
        shown=shown,
        method=config.optimizer.method,
        settings=_settings(config, provenance),
        usage="\n\n".join(_usage(files)),
        columns=_columns(run_dir, config),
        embedded=_is_embedded(config),
    )
    return f"---\n{_metadata(config, files, rows, _mark(run_dir)).to_yaml()}\n---\n{body}"


def describes(run_dir: Path) -> bool:
    """Whether the card of a run directory is of the rows it holds now."""
    card = run_dir / "README.md"
    return card.is_file() and _mark(run_dir) in card.read_text(encoding="utf-8")


def _mark(run_dir: Path) -> str:
    return f"manifest {sha256_of(manifest_file(run_dir))[:16]}"


def escape(value: object) -> str:
    """Text as inline Markdown on one line: it shows its own characters and has no markup or HTML of its own."""
    return _INLINE.sub(r"\\\1", html.escape(" ".join(str(value).split()), quote=False))


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("noisesmith.pipeline.report", "templates"),
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        keep_trailing_newline=True,
    )
    environment.filters["md"] = escape
    return environment.get_template("card.md.j2")


def _metadata(config: RunConfig, files: list[str], rows: int, mark: str) -> DatasetCardData:
    """Front matter for the Hub.

    Only one format is configured: ``datasets`` reads all configurations of a folder with the first one's reader. The
    manifest's digest is in the description because ``datasets`` caches a local folder by its base name and the text of
    its configurations: without it, another run in a folder of the same name would be read from the cache.
    """
    extra: dict[str, Any] = {} if _is_embedded(config) else {"license_name": "of-the-models-used"}
    if files:
        split = {"split": "train", "path": f"data/*{files[0]}"}
        description = f"{rows} rows, {mark}"
        extra["configs"] = [
            {"config_name": "default", "default": True, "description": description, "data_files": [split]}
        ]
    return DatasetCardData(
        license="apache-2.0" if _is_embedded(config) else "other",
        pretty_name=config.name,
        task_categories=["text-to-image"],
        size_categories=[next((label for limit, label in _SIZES if rows < limit), "n>1M")],
        tags=["synthetic", "noisesmith", config.optimizer.method.replace("_", "-"), "image", "text"],
        **extra,
    )


def _data_files(run_dir: Path) -> list[str]:
    """The formats of ``data/``, the preferred one first."""
    return [suffix for suffix in (".parquet", ".tar") if any((run_dir / "data").glob(f"*{suffix}"))]


def _usage(files: list[str]) -> list[str]:
    parquet = (
        'from datasets import load_dataset\n\nrows = load_dataset("RUN_DIR", split="train")\nrows[0]["image"].show()'
    )
    tar = (
        "# the same rows as tar shards, for streaming\nimport glob\n\nimport webdataset\n\n"
        'tars = sorted(glob.glob("RUN_DIR/data/*.tar"))\n'
        'samples = webdataset.WebDataset(tars, shardshuffle=False).decode("pil")\n'
        'sample = next(iter(samples))  # "png", "txt" (the prompt), "json" (the other columns)'
    )
    return [{".parquet": parquet, ".tar": tar}[suffix] for suffix in files] or ["# no row finished"]


def _settings(config: RunConfig, provenance: Provenance) -> list[tuple[str, object]]:
    corpora = [f"{part.source}{f' ({part.size} rows)' if part.size else ''}" for part in config.corpus]
    generators, optimizer = config.generators, config.optimizer
    limits = optimizer.model_dump(exclude_none=True, exclude={"method"})
    stated = "apache-2.0" if _is_embedded(config) else licence(generators.model, generators.revision)
    settings: list[tuple[str, object]] = [
        ("prompts", ", ".join(corpora)),
        ("diffusion model", f"{provenance.generator}, revision {provenance.generator_revision}"),
        ("its licence", stated or "not stated where the model was found"),
        ("sampler", f"{generators.scheduler}, {generators.steps} steps, guidance {generators.guidance_scale:g}"),
        ("steering model", f"{provenance.scorer}, revision {provenance.scorer_revision}"),
        ("question", config.scorers.question),
        ("readout", provenance.readout),
        ("judges", ", ".join(f"{judge.name} ({judge.model})" for judge in config.judges) or "none"),
        ("search", ", ".join([optimizer.method, *(f"{key} {value}" for key, value in limits.items())])),
        ("seed", config.seed),
    ]
    if generators.negative_prompt:
        settings.append(("negative prompt", generators.negative_prompt))
    return settings


def _columns(run_dir: Path, config: RunConfig) -> list[tuple[str, str]]:
    """Every column with its meaning; the corpus's own are known from the first Parquet shard."""
    meanings = dict(_MEANINGS)
    for judge in config.judges:
        meanings[f"judge_{judge.name}_initial"] = (
            f"{judge.name}'s verdict on the first image, null where it cannot tell"
        )
        meanings[f"judge_{judge.name}"] = f"{judge.name}'s verdict on the kept image"
    shard = min((run_dir / "data").glob("*.parquet"), default=None)
    names = list(meanings)
    if shard:
        with shard.open("rb") as file:
            names = pq.read_schema(file).names
    return [(name, meanings.get(name, "from the prompt list")) for name in names]


def _is_embedded(config: RunConfig) -> bool:
    return config.generators.model == "embedded"
