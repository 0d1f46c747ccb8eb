"""Compares a run's acceptance rule, scores and judges with labels, and keeps the result in ``calibration.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from noisesmith.pipeline.acceptance.figures import (
    Array,
    Bin,
    Cut,
    Share,
    fit_points,
    fit_temperature,
    reliability,
    share,
    threshold_for,
)
from noisesmith.pipeline.acceptance.rule import worst_atom
from noisesmith.pipeline.acceptance.table import rule_in_force
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.schema import ATOMS
from noisesmith.pipeline.sinks import read_rows
from noisesmith.pipeline.sinks.manifest import Manifest, read_manifest
from noisesmith.pipeline.storage.files import write_atomic


@dataclass(frozen=True)
class RuleFigures:
    """The acceptance rule on the labelled images: of those it accepts, and of those labelled 1."""

    rule: dict[str, Any]
    precision: Share
    recall: Share


@dataclass(frozen=True)
class ScoreFigures:
    """A score on the labelled images that have it.

    ``cut`` is the lowest threshold with the wanted precision; ``temperature`` and ``points`` are calibrations, fitted
    to each scorer that has none yet. ``None`` where the labels give none.
    """

    images: int
    fitted: bool
    bins: list[Bin]
    cut: Cut | None
    temperature: float | None
    points: list[tuple[float, float]] | None


@dataclass(frozen=True)
class Calibration:
    """What the labels of ``images`` images say; ``right`` is the share labelled 1, ``rule`` is ``None`` without one."""

    images: int
    right: Share
    wanted_precision: float
    rule: RuleFigures | None
    scores: dict[str, ScoreFigures]


def calibrate(run_dir: Path, config: RunConfig, labels: Mapping[str, bool], precision: float) -> Calibration:
    """Compare labels with the rule in force, with the run's scores and with its judges.

    Args:
        config: of the run.
        labels: id → whether the kept image shows its prompt (:func:`read_labels`).
        precision: for which a threshold of each score is looked for.

    Raises:
        UserError: the directory is no run, or a shard cannot be read.
    """
    manifest = read_manifest(run_dir)
    members = _member_columns(config, manifest)
    uncalibrated = [name for name, is_calibrated in members.items() if not is_calibrated]
    names = list(dict.fromkeys(["score", *members, *_judge_columns(manifest)]))
    has_atoms = ATOMS in manifest.columns
    rule = rule_in_force(manifest)
    columns = ["id", *names, *([ATOMS] if has_atoms else []), *(["accepted"] if rule is not None else [])]
    rows = [row for row in read_rows(run_dir, columns) if row["id"] in labels]
    if has_atoms:
        names.append(ATOMS)
        for row in rows:
            row[ATOMS] = worst_atom(row)
    right = [labels[row["id"]] for row in rows]
    scores = {}
    for name in names:
        known = [(row[name], label) for row, label in zip(rows, right, strict=True) if row[name] is not None]
        if known:
            scores[name] = _score_figures(np.array(known, dtype=np.float64), precision, fit=name in uncalibrated)
    found = None
    if rule is not None:
        plain = rule.model_dump(mode="json", exclude_none=True)
        found = _rule_figures(plain, [bool(row["accepted"]) for row in rows], right)
    return Calibration(len(rows), share(sum(right), len(right)), precision, found, scores)


def _member_columns(config: RunConfig, manifest: Manifest) -> dict[str, bool]:
    """The column of each scorer's score of the kept image, and whether the scorer is calibrated already."""
    columns = {}
    for member in config.panel:
        name = f"score_{member.name}" if len(config.panel) > 1 else "score"
        if name in manifest.types:
            columns[name] = member.calibration is not None
    return columns


def _judge_columns(manifest: Manifest) -> list[str]:
    """The columns with the score of the kept image by each judge, also of side tables."""
    columns = manifest.columns
    return [name for name in columns if name.startswith("judge_") and f"{name}_initial" in columns]


def write_calibration(run_dir: Path, found: Calibration) -> None:
    """Write ``calibration.json``, whole or not at all."""
    content = json.dumps(asdict(found), indent=2, ensure_ascii=False)
    write_atomic(run_dir / "calibration.json", content.encode() + b"\n")


def calibration_lines(run_dir: Path, rule: Mapping[str, Any] | None) -> list[str]:
    """What labels said of the rule in force, for the dataset card; nothing where they saw another rule or none."""
    path = run_dir / "calibration.json"
    if rule is None or not path.is_file():
        return []
    try:
        found = json.loads(path.read_bytes())
        figures = found["rule"]
        if figures is None or figures["rule"] != rule:
            return []
        return rule_lines(found["images"], Share(**figures["precision"]), Share(**figures["recall"]))
    except (ValueError, KeyError, TypeError):  # a file of the user's, or of another version
        return []


def rule_lines(images: int, precision: Share, recall: Share) -> list[str]:
    """The rule's figures, one sentence per line."""
    return [
        f"Of {images} images labelled by eye, those that the rule accepts show their prompts in {precision}: precision "
        "with its 95 % interval.",
        f"Of the labelled images that show their prompts, the rule accepts {recall}: recall.",
    ]


def _rule_figures(rule: dict[str, Any], accepted: list[bool], right: list[bool]) -> RuleFigures:
    both = sum(one and other for one, other in zip(accepted, right, strict=True))
    return RuleFigures(rule, share(both, sum(accepted)), share(both, sum(right)))


def _score_figures(pairs: Array, precision: float, *, fit: bool) -> ScoreFigures:
    """The figures of pairs (score, label) ``[N, 2]``."""
    scores, labels = pairs[:, 0], pairs[:, 1]
    return ScoreFigures(
        images=len(scores),
        fitted=fit,
        bins=reliability(scores, labels),
        cut=threshold_for(scores, labels, precision),
        temperature=fit_temperature(scores, labels) if fit else None,
        points=fit_points(scores, labels) if fit else None,
    )
