"""A comparison of trainings written as Markdown (``training.md``) and JSON (``training.json``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from noisesmith.pipeline.bench import read
from noisesmith.pipeline.bench.tables import NONE, Conditions, caption, conditions, dumped, line, signed
from noisesmith.pipeline.bench.training.arms import ARMS, BASELINE, REFERENCE
from noisesmith.pipeline.bench.training.compare import COMPARED_WITH, ArmFigures, Measure, compare_arms
from noisesmith.pipeline.bench.training.design import TrainingDesign
from noisesmith.pipeline.bench.training.evaluate import DIVERSITY, SCORE
from noisesmith.pipeline.bench.training.results import read_results
from noisesmith.pipeline.bench.training.selection import judges_of_record
from noisesmith.pipeline.report.card import escape
from noisesmith.pipeline.storage.files import write_atomic


def write_training(design: TrainingDesign) -> list[Path]:
    """Write ``training.md`` and ``training.json`` of finished trainings, and return both files.

    Raises:
        UserError: results are missing or damaged, or cannot be compared.
    """
    figures = compare_arms([read_results(design.results_of(training)) for training in design.trainings])
    facts = conditions(design.data, read.read_runs(design.data).models["data"])
    contents = {
        "training.md": to_markdown(design, figures, facts),
        "training.json": to_json(design, figures, facts),
    }
    paths = []
    for name, content in contents.items():
        path = design.out / name
        write_atomic(path, content.encode())
        paths.append(path)
    return paths


def to_json(design: TrainingDesign, figures: Mapping[str, ArmFigures], facts: Conditions) -> str:
    """Everything, at full precision.

    ``conditions`` are those of the run whose images are trained on, ``options`` those of the trainings. ``arms`` maps
    each label to ``why`` and the fields of :class:`ArmFigures`; ``measures`` has ``score`` (of the panel),
    ``score_NAME`` of its members, ``judge_NAME`` and ``diversity``. An estimate is ``{"mean", "low", "high"}``.
    """
    arms: dict[str, object] = {}
    for arm in ARMS:
        if arm.label in figures:
            arms[arm.label] = {"why": arm.why, **asdict(figures[arm.label])}
    whole = {
        "conditions": asdict(facts),
        "options": asdict(design.options),
        "seeds": design.seeds,
        "held_out_prompts": len(design.held_out),
        "selected_by": design.rule.model_dump(mode="json"),
        "judges_of_record": judges_of_record(design.config),
        "compared_with": list(COMPARED_WITH),
        "arms": arms,
    }
    return dumped(whole)


def to_markdown(design: TrainingDesign, figures: Mapping[str, ArmFigures], facts: Conditions) -> str:
    """A table with its conditions in one line, and what its columns and rows mean."""
    shown = [SCORE, *(f"judge_{judge.name}" for judge in design.config.judges), DIVERSITY]
    heads = ["arm"]
    for name in shown:
        heads += [_title(design, name), f"Δ `{REFERENCE}`", f"Δ `{BASELINE}`"]
    lines = [line(heads), line(["---", *["---:"] * (len(heads) - 1)])]
    for label, of_arm in figures.items():
        cells = [f"`{label}`"]
        for name in shown:
            cells += _cells(of_arm.measures[name])
        lines.append(line(cells))
    whys = [f"- `{arm.label}`: {arm.why}" for arm in ARMS if arm.label in figures]
    record = judges_of_record(design.config)[0]
    parts = [*lines, "", _conditions(design, figures), "", f"The run: {caption(facts)}", "", _notes(), ""]
    parts += [*_by_seed(figures, f"judge_{record}", f"Judge {record}"), "", *whys, ""]
    return "\n".join(parts)


def _title(design: TrainingDesign, name: str) -> str:
    if not name.startswith("judge_"):
        return name
    judge = name.removeprefix("judge_")
    selects = judge not in judges_of_record(design.config)
    return f"judge {judge} (selects)" if selects else f"judge {judge}"


def _cells(measure: Measure) -> list[str]:
    mean = NONE if measure.mean is None else f"{measure.mean.mean:.3f}"
    return [mean, *(signed(measure.differences.get(label)) for label in COMPARED_WITH)]


def _conditions(design: TrainingDesign, figures: Mapping[str, ArmFigures]) -> str:
    options = design.options
    trained = [one for one in figures.values() if one.steps]
    seeds = "1 seed" if design.seeds == 1 else f"{design.seeds} seeds"
    return escape(
        f"{seeds}; {options.steps} steps of {options.batch_size} pictures, drawn from {trained[0].pictures} different "
        f"ones in every arm; AdamW, learning rate {options.learning_rate:g}, for pairs {options.dpo_learning_rate:g} "
        f"with β = {options.beta:g}; {len(design.held_out)} held-out prompts with {options.images} images each."
    )


def _notes() -> str:
    return (
        "Means over the held-out prompts, none of which was trained on. All arms make their images from the same "
        f"noises. Δ: paired difference from `{REFERENCE}` and from `{BASELINE}`, with its 95 % bootstrap interval over "
        "prompts, after averaging over seeds. The interval does not hold what another seed of the training would "
        "change: compare it with the row `repeat` and with the means by seed. Score: of the scorers that steered the "
        "search. A judge that selects has chosen the pictures to train on, so only the other judges are independent. "
        "Diversity: root mean squared difference between the pixels of two images of a prompt, from 0 to 1."
    )


def _by_seed(figures: Mapping[str, ArmFigures], name: str, title: str) -> list[str]:
    """One line with the means of every seed, so that their spread is seen."""
    parts = []
    for label, of_arm in figures.items():
        means = [NONE if mean is None else f"{mean:.3f}" for mean in of_arm.measures[name].by_seed]
        parts.append(f"`{label}` {', '.join(means)}")
    return [f"{title} by seed: {'; '.join(parts)}."]
