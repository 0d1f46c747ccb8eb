"""The dataset card of a run directory: what the images are, how they were made, and how to open them."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from pathlib import Path

import jinja2

from noisesmith.pipeline.acceptance import Acceptance, acceptance_lines, calibration_lines
from noisesmith.pipeline.config import RunConfig, ScorerConfig
from noisesmith.pipeline.config.flat import without_positions
from noisesmith.pipeline.config.optimizers import PAPER
from noisesmith.pipeline.models.locate import licence
from noisesmith.pipeline.records import Provenance
from noisesmith.pipeline.report.facts import Facts
from noisesmith.pipeline.report.meanings import columns_of_rows, columns_of_side_tables
from noisesmith.pipeline.report.metadata import card_data, is_embedded
from noisesmith.pipeline.report.summary import Summary, labelled, notes, shown
from noisesmith.pipeline.report.usage import Place, usage, written_patterns
from noisesmith.pipeline.schema import PARENT
from noisesmith.pipeline.sinks.header import STOP_RULES, Header
from noisesmith.pipeline.sinks.layout import manifest_file
from noisesmith.pipeline.sinks.manifest import Manifest
from noisesmith.pipeline.storage.files import sha256_of, write_atomic

_COMBINED = {
    "mean": "the weighted geometric mean of the scores",
    "min": "the lowest of the scores",
    "rank": "the weighted geometric mean of the scores while searching; the kept image has the best mean rank",
}
_READ = {
    "reference": 'the official implementation\'s value, √(P("Yes") · P(end | "Yes"))',
    "caption": "the likelihood of the prompt as a caption of the image, per token",
    "contrastive": "the probability of the prompt against edits of it, which the image should not show",
    "rating": "the expected rating by UnifiedReward 2.0, from 0 to 1",
}
_INLINE = re.compile(r"([\\`*_\[\]|~$])")


def write_card(run_dir: Path, config: RunConfig, facts: Facts, provenance: Provenance) -> None:
    """Write ``README.md`` of a run directory, whole or not at all."""
    card = render_card(Place(run_dir), config, facts, provenance)
    write_atomic(run_dir / "README.md", card.encode())


def render_card(
    place: Place, config: RunConfig, facts: Facts, provenance: Provenance, hide: Callable[[str], str] = str
) -> str:
    """The card as Markdown with YAML front matter.

    Args:
        hide: takes local paths and addresses out of a text.
    """
    run_dir = place.run_dir
    manifest = facts.manifest
    summary = facts.summary
    acceptance = facts.acceptance
    patterns = written_patterns(manifest)
    header = manifest.header
    tables = manifest.side_columns
    is_alone = len(config.panel) == 1
    body = _template(hide).render(
        name=config.name,
        rows=summary.rows,
        failed=facts.failed,
        marked=header.marks_images,
        spread=facts.spread,
        scored_by="A vision-language model" if is_alone else f"A panel of {len(config.panel)} models",
        score_meaning=_meaning(config.panel[0]) if is_alone else _COMBINED[config.combine or "mean"],
        searched=any(part.config["optimizer.rounds"] for part in manifest.parts),
        labelled=labelled(summary),
        judges=summary.judges,
        notes=notes_of(summary, manifest),
        shown=shown,
        accepted=_acceptance_lines(run_dir, acceptance) if acceptance else (),
        description=config.optimizer.describe(),
        cites_paper=PAPER in config.optimizer.describe(),
        rebuild=_how_to_rebuild(config, place, continued=manifest.continues_searches),
        published=place.repository is not None,
        later=len(manifest.later),
        settings=settings_of(config, provenance, manifest),
        usage=usage(place, patterns, list(tables)),
        columns=columns_of_rows(manifest.types, config) + columns_of_side_tables(tables),
        text_columns=header.text_columns if "webdataset" in patterns else (),
        embedded=is_embedded(config),
    )
    metadata = card_data(run_dir, config, manifest, patterns, summary.rows, _mark(run_dir))
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


def _template(hide: Callable[[str], str]) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("noisesmith.pipeline.report", "templates"),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # the card is Markdown: values go through the `md` filter
        keep_trailing_newline=True,
    )
    environment.filters["md"] = lambda value: escape(hide(str(value)))
    return environment.get_template("card.md.j2")


def _how_to_rebuild(config: RunConfig, place: Place, *, continued: bool) -> str:
    """How a reader obtains a row's noise again: from its recipe, from the stored noise, or not at all."""
    if config.optimizer.folds:
        again = "`noisesmith replay` makes the image again."
        if place.repository:  # replay needs the run directory
            again = (
                '`noisesmith.pipeline.noise.rebuild(Recipe.from_row(row["recipe"]), row["id"])`, with `Recipe` of '
                "`noisesmith.pipeline.records`."
            )
            if continued:
                again += (
                    " For a row with a `parent_id`, give the id of the row that began the search: follow `parent_id` "
                    "up to a row without one."
                )
        return f"The `recipe` column rebuilds a row's noise exactly: {again}"
    if config.stores_noise:
        again = "." if place.repository else ": `noisesmith replay` makes the image again."
        return f"No recipe rebuilds the noise of this method, so the `noise_fp16` column stores the noise{again}"
    return (
        "No recipe rebuilds the noise of this method, and this run did not store it (`output.noise: false`), so an "
        "image cannot be rebuilt."
    )


def _acceptance_lines(run_dir: Path, acceptance: Acceptance) -> list[str]:
    return [*acceptance_lines(acceptance), *calibration_lines(run_dir, acceptance.rule)]


def settings_of(config: RunConfig, provenance: Provenance, manifest: Manifest) -> list[tuple[str, object]]:
    """The settings of a run that a reader wants to know: (name, value)."""
    generators = config.generators
    corpora: list[str] = []
    for part in config.corpus:
        corpora.append(f"{part.source} ({part.size} rows)" if part.size else part.source)
    corpora += [_added(part, manifest.header) for part in manifest.later]
    search: list[str] = [config.optimizer.method]
    # The paragraph about the method says all about previews and probes.
    for key, value in config.optimizer.model_dump(exclude_none=True, exclude={"method", "preview", "probe"}).items():
        search.append(f"{key} {value}")
    judges = [f"{judge.name} ({judge.model})" for judge in config.judges]
    judges += [f"{table} ({model}), afterwards" for table, model in _models_of_tables(manifest).items()]
    stated = "apache-2.0" if is_embedded(config) else licence(generators.model, generators.revision)
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
    if manifest.header.partition is not None:
        settings.append(("partition", f"{manifest.header.partition} of {manifest.header.rows} rows"))
    return settings


def notes_of(summary: Summary, manifest: Manifest) -> list[str]:
    """What the table of a run's figures leaves out, one sentence per line."""
    lines = notes(summary)
    if manifest.continues_searches:
        lines.append(
            f"A row with a {PARENT} continues the search of that row: its first image has the noise which that row has "
            "kept. Both rows count."
        )
    return lines


def _added(part: Header, first: Header) -> str:
    """What a later part of a run has added, with its stop rules where they are not those of the first part."""
    if part.below is None:
        added = ", ".join(str(value) for key, value in part.config.items() if without_positions(key) == "corpus.source")
    else:
        added = f"searches continued where the score was below {part.below:g}"
    details = [f"{part.rows} rows"]
    for key in STOP_RULES:
        value = part.config.get(key, "none")  # a field that is null is left out
        if value != first.config.get(key, "none"):
            details.append(f"{key.removeprefix('optimizer.')} {value}")
    return f"then {added} ({', '.join(details)})"


def _models_of_tables(manifest: Manifest) -> dict[str, str]:
    """The model that filled each side table, where one did."""
    models: dict[str, str] = {}
    for entry in manifest.side.values():
        if "model" in entry.origin:
            models[entry.table] = f"{entry.origin['model']}, revision {entry.origin.get('revision')}"
    return models


def _meaning(scorer: ScorerConfig) -> str:
    """What the score of a scorer is, whatever its model."""
    if scorer.asks == "questions":
        return "the geometric mean of P(answer) over questions about the parts of the prompt"
    return _READ.get(scorer.readout, 'P("Yes") of the scoring model, or the similarity or reward of one that says none')


def _asked(config: RunConfig) -> list[tuple[str, object]]:
    """The question of each scorer, and how several become one score."""
    panel = config.panel
    if len(panel) == 1:
        return [("question, where the model answers one", panel[0].asked)]
    rows: list[tuple[str, object]] = []
    for member in panel:
        part = f"weight {member.weight:g}" if member.gradient else f"weight {member.weight:g}, without its gradient"
        rows.append((f"scorer {member.name}", f"{member.model}, {part}: {member.asked}"))
    return [*rows, ("combined by", _COMBINED[config.combine or "mean"])]
