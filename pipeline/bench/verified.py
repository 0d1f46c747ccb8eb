"""The figures of a comparison of verifiers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from noisesmith.pipeline.bench.compare import Comparison, Figures, Prompts, shared_keys
from noisesmith.pipeline.bench.design import Design
from noisesmith.pipeline.bench.read import Runs, compare_runs
from noisesmith.pipeline.bench.separation import Separation, separation
from noisesmith.pipeline.search.asking import passes_per_image


@dataclass(frozen=True)
class Verified:
    """One verifier.

    Attributes:
        figures: as for any variant.
        separation: by judge, how well the verifier's score tells right first images from wrong ones. No verifier has
            selected a first image; kept images are those that the score itself has chosen.
        vlm_passes: mean number of questions that all its scorers together are asked about one image.
    """

    figures: Figures
    separation: dict[str, Separation | None]
    vlm_passes: float


def verify_runs(design: Design, runs: Runs) -> tuple[Comparison, dict[str, Verified]]:
    """The figures of finished runs, and by label what only verifiers have.

    Raises:
        UserError: no row was finished by every variant.
    """
    comparison = compare_runs(design, runs)
    shared = shared_keys(runs.rows)
    prompts = Prompts([row_id for _, row_id in shared], design.parts())
    passes = _passes(design, {row_id for _, row_id in shared})
    verified: dict[str, Verified] = {}
    for label, figures in comparison.variants.items():
        rows = [runs.rows[label][key] for key in shared]
        scores = np.array([row["score_initial"] for row in rows], dtype=np.float64)
        separations: dict[str, Separation | None] = {}
        for judge in figures.judges:
            judged = np.array([row[f"judge_{judge}_initial"] for row in rows], dtype=np.float64)  # NaN for null
            separations[judge] = separation(scores, judged, prompts.of_rows)
        verified[label] = Verified(figures, separations, passes[label])
    return comparison, verified


def _passes(design: Design, row_ids: set[str]) -> Mapping[str, float]:
    """By label, the mean passes per image over the prompts with these ids."""
    counts: dict[str, list[int]] = {variant.label: [] for variant in design.variants}
    for row in design.corpus.rows():
        if row.id not in row_ids:
            continue
        for trial in design.first_seed:
            counts[trial.variant.label].append(passes_per_image(row, trial.config))
    return {label: float(np.mean(passes)) for label, passes in counts.items()}
