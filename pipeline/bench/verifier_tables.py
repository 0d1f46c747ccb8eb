"""A comparison of verifiers written as Markdown (``verifiers.md``) and JSON (``verifiers.json``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from noisesmith.pipeline.bench.compare import Comparison
from noisesmith.pipeline.bench.design import Design
from noisesmith.pipeline.bench.read import Models, Runs
from noisesmith.pipeline.bench.separation import RIGHT
from noisesmith.pipeline.bench.tables import (
    NONE,
    Conditions,
    caption,
    dumped,
    kept_mean,
    left_out,
    line,
    seconds_per_row,
    signed,
)
from noisesmith.pipeline.bench.verified import Verified
from noisesmith.pipeline.report.card import escape
from noisesmith.pipeline.report.summary import shown


def to_json(
    design: Design, comparison: Comparison, verified: Mapping[str, Verified], facts: Conditions, runs: Runs
) -> str:
    """Everything, at full precision.

    As :func:`tables.to_json`, except: ``optimizer`` is the section that all variants share. Each of ``variants`` has
    ``why``, ``scorers`` and ``combine`` (its resolved sections), ``models`` (ids and revisions of its scorers), of
    :class:`Figures` those that do not compare scores of different verifiers, ``difference`` by judge (absent for the
    reference), ``separation`` by judge (:class:`Separation`) and ``vlm_passes``.
    """
    variants: dict[str, object] = {}
    for trial in design.first_seed:
        label = trial.variant.label
        found = verified[label]
        figures = asdict(found.figures)
        config = trial.config.model_dump(mode="json")
        difference = figures["difference"]
        variants[label] = {
            "why": trial.variant.why,
            "scorers": config["scorers"],
            "combine": config["combine"],
            "models": {side: runs.models[label][side] for side in ("scorer", "scorer_revision")},
            "rows": figures["rows"],
            "score": figures["score"],
            "judges": figures["judges"],
            "difference": None if difference is None else difference["judges"],
            "separation": {judge: _plain(found, judge) for judge in found.separation},
            "vlm_passes": found.vlm_passes,
            "images_scored": figures["vlm_evaluations"],
            "unet_evaluations": figures["unet_evaluations"],
            "seconds": figures["seconds"],
            "parts": figures["parts"],
        }
    shared = asdict(facts)
    shared["batch_size"] = {"generators": facts.batch_size["generators"]}
    del shared["readout"]  # of scorers: each variant has its own
    whole = {
        "conditions": shared,
        "reference": design.kind.reference,
        "prompts": comparison.prompts,
        "rows": comparison.rows,
        "rows_asked": comparison.rows_asked,
        "optimizer": design.settings.optimizer.model_dump(mode="json"),
        "variants": variants,
    }
    return dumped(whole)


def _plain(found: Verified, judge: str) -> dict[str, object] | None:
    separation = found.separation[judge]
    return None if separation is None else asdict(separation)


def to_markdown(
    design: Design, comparison: Comparison, verified: Mapping[str, Verified], facts: Conditions, runs: Runs
) -> str:
    """A table with its conditions in one line, and what its columns and rows mean."""
    judges = list(next(iter(comparison.variants.values())).judges)
    heads = ["verifier", "score"]
    for judge in judges:
        heads += [f"judge {judge}", f"Δ {judge}", f"AUC {judge}"]
    heads += ["VLM passes", "U-Net", "s"]
    lines = [line(heads), line(["---", *["---:"] * (len(heads) - 1)])]
    for label, found in verified.items():
        lines.append(line(_cells(label, found)))
    whys = []
    for variant in design.variants:
        models = escape(_models(runs.models[variant.label]))
        whys.append(f"- `{variant.label}`: {escape(variant.why)} ({models})")
    return "\n".join([*lines, "", caption(facts), "", *_notes(design, comparison), "", *whys, ""])


def _cells(label: str, found: Verified) -> list[str]:
    figures = found.figures
    cells = [f"`{label}`", f"{figures.score.first.mean:.3f} → {figures.score.kept.mean:.3f}"]
    for judge, separation in found.separation.items():
        difference = None if figures.difference is None else figures.difference.judges[judge]
        auc = NONE if separation is None else shown(separation.auc)
        cells += [kept_mean(figures.judges[judge]), signed(difference), auc]
    return [*cells, f"{found.vlm_passes:.1f}", f"{figures.unet_evaluations:.0f}", seconds_per_row(figures)]


def _models(models: Models) -> str:
    return f"{models['scorer']}@{models['scorer_revision']}"


def _notes(design: Design, comparison: Comparison) -> list[str]:
    """What the columns mean, and how often the first images are right."""
    first = []
    for judge, change in comparison.variants[design.kind.reference].judges.items():
        if change is not None:
            first.append(f"judge {judge} {shown(change.first)}")
    notes = [
        f"Search method: `{design.settings.optimizer.method}`. All verifiers start from the same noises and spend the "
        "same U-Net evaluations; a row ends early only at the score 1. Score: first → kept images, each by its own "
        "verifier, so that the scores of two verifiers cannot be compared. Judge: mean of the kept images; Δ: its "
        f"paired difference from `{design.kind.reference}` with its 95 % bootstrap interval over prompts. AUC: share "
        "of the pairs of a right and a wrong image in which the right one has the higher score, equal scores counting "
        f"half; a judge's {RIGHT} and more is right. It is measured on the first images, which no verifier has "
        "selected, with a bootstrap interval over prompts. VLM passes: questions that all scorers together are asked "
        "about one image. U-Net, s: denoising steps and seconds per row.",
    ]
    if first:
        notes += ["", f"First images: {', '.join(first)}."]
    return [*notes, *left_out(comparison, "verifier")]
