"""A comparison written as Markdown (``methods.md``) and JSON (``methods.json``)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from noisesmith.pipeline.bench.compare import SHARE, Comparison, Figures
from noisesmith.pipeline.bench.design import Design
from noisesmith.pipeline.bench.variants import REFERENCE
from noisesmith.pipeline.machine import cpu_name, usable_cores, versions
from noisesmith.pipeline.report.card import escape
from noisesmith.pipeline.report.summary import Change, Estimate, shown

NONE = "–"


@dataclass(frozen=True)
class Machine:
    """The computer that a comparison ran on."""

    cpu: str
    cores: int
    gpus: list[str]


@dataclass(frozen=True)
class Conditions:
    """How a comparison was made: its size, sampler, models, machine, day and versions.

    ``corpus`` has the prompts per source, ``batch_size`` those of generators and scorers, and ``models`` the id and
    revision (``ID@REVISION``) of generator, scorer and every judge.
    """

    prompts: int
    corpus: dict[str, int]
    seeds: int
    rounds: int
    scheduler: str
    steps: int
    guidance_scale: float
    readout: str
    batch_size: dict[str, int]
    models: dict[str, str]
    machine: Machine
    date: str
    versions: dict[str, str]


def conditions(design: Design, models: Mapping[str, str], sides: Sequence[str] = ("generator", "scorer")) -> Conditions:
    """The conditions of a comparison on this machine, today.

    Args:
        models: ids and revisions of generator and scorer, as the rows have them.
        sides: those of the two that all variants share.
    """
    generators = design.settings.generators
    scorers = [placed for placed, *_ in design.settings.groups]
    used = {side: f"{models[side]}@{models[f'{side}_revision']}" for side in sides}
    for judge, found in zip(design.settings.judges, design.models.judges, strict=True):
        used[f"judge {judge.name}"] = f"{found.source.id}@{found.revision}"
    return Conditions(
        prompts=design.corpus.size,
        corpus=dict(design.parts()),
        seeds=design.seeds,
        rounds=design.rounds,
        scheduler=generators.scheduler,
        steps=generators.steps,
        guidance_scale=generators.guidance_scale,
        readout=" + ".join(member.readout for member in design.settings.panel),
        batch_size={"generators": generators.batch_size} | {placed.section: placed.batch_size for placed in scorers},
        models=used,
        machine=this_machine(),
        date=today(),
        versions=versions(),
    )


def today() -> str:
    """The date in UTC, as in ISO 8601."""
    return datetime.now(UTC).date().isoformat()


def this_machine() -> Machine:
    """The computer that this process runs on."""
    return Machine(cpu_name(), usable_cores(), _gpus())


def to_json(design: Design, comparison: Comparison, facts: Conditions) -> str:
    """Everything, at full precision.

    ``conditions`` has the fields of :class:`Conditions`; ``prompts``, ``rows`` and ``rows_asked`` are those of
    :class:`Comparison`, and ``reference`` is the label that all are compared with. ``variants`` maps each label to
    ``why``, ``optimizer`` (its resolved section) and the fields of :class:`Figures`, nested as there. An estimate is
    ``{"mean", "low", "high"}``, a change ``{"rows", "first", "kept", "gain"}`` with ``rows`` counting prompts, a curve
    ``{"at", "score"}`` with one estimate per value of ``at``.
    """
    plain = asdict(comparison)
    for trial in design.first_seed:
        variant = trial.variant
        section = trial.config.optimizer.model_dump(mode="json")
        figures = plain["variants"][variant.label]
        plain["variants"][variant.label] = {"why": variant.why, "optimizer": section, **figures}
    whole = {"conditions": asdict(facts), "reference": REFERENCE, **plain}
    return dumped(whole)


def dumped(whole: Mapping[str, object]) -> str:
    """A comparison's figures as JSON."""
    return json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def to_markdown(design: Design, comparison: Comparison, facts: Conditions) -> str:
    """A table for a README with its conditions in one line, and what its columns and rows mean."""
    judges = list(next(iter(comparison.variants.values())).judges)
    heads = ["method", "VQA score", "Δ", "Δ at equal U-Net"]
    for judge in judges:
        heads += [f"judge {judge}", f"Δ {judge}"]
    heads += ["95 % at", "U-Net", "VLM", "‖z‖/√D", "KS", "s"]
    lines = [line(heads), line(["---", *["---:"] * (len(heads) - 1)])]
    lines += [line(_cells(label, figures, judges)) for label, figures in comparison.variants.items()]
    whys = [f"- `{variant.label}`: {escape(variant.why)}" for variant in design.variants]
    return "\n".join([*lines, "", caption(facts), "", *_notes(comparison, facts), "", *whys, ""])


def _cells(label: str, figures: Figures, judges: list[str]) -> list[str]:
    difference = figures.difference
    cells = [f"`{label}`", f"{figures.score.kept.mean:.3f}"]
    if difference is None:
        cells += [NONE, NONE]
    else:
        cells += [signed(difference.score), signed(difference.score_at_budget)]
    for judge in judges:
        judged = None if difference is None else difference.judges[judge]
        cells += [kept_mean(figures.judges[judge]), signed(judged)]
    return [
        *cells,
        NONE if figures.rounds_to_95 is None else str(figures.rounds_to_95),
        f"{figures.unet_evaluations:.0f}",
        f"{figures.vlm_evaluations:.1f}",
        f"{figures.noise_norm:.3f}",
        f"{figures.noise_ks:.3f}",
        seconds_per_row(figures),
    ]


def caption(facts: Conditions) -> str:
    """The conditions in one line."""
    machine = facts.machine
    sources = ", ".join(f"{size} {name}" for name, size in facts.corpus.items())
    parts = [
        f"{facts.prompts} prompts ({sources})",
        f"{counted(facts.seeds, 'seed')}, {counted(facts.rounds, 'round')}",
        f"{facts.scheduler}, T = {facts.steps}, guidance {facts.guidance_scale:g}",
        ", ".join([machine.cpu, f"{machine.cores} cores", *machine.gpus]),
        facts.date,
        ", ".join(f"{name} {number}" for name, number in facts.versions.items()),
        ", ".join(f"{side} {model}" for side, model in facts.models.items()),
    ]
    return escape("; ".join(parts)) + "."


def _notes(comparison: Comparison, facts: Conditions) -> list[str]:
    rounds = counted(facts.rounds, "round")
    notes = [
        f"Δ: kept image, paired difference from `{REFERENCE}` with its 95 % bootstrap interval over prompts. Previews "
        f"and probes spend the U-Net evaluations of the first image and {rounds}, all others take {rounds}; a row "
        "ends early only at the score 1. Δ at equal U-Net: between the best scores found within the smaller of both "
        "budgets. A judge never steers and sees only the image kept in the end, so its Δ is as run. 95 % at: the round "
        f"where the mean score has {SHARE:.0%} of its final gain over the first image. U-Net, VLM, s: denoising "
        "steps, images scored and seconds per row. ‖z‖/√D and KS: norm of the kept noise, and its Kolmogorov-Smirnov "
        "distance from N(0, 1).",
    ]
    return [*notes, *left_out(comparison, "method")]


def left_out(comparison: Comparison, what: str) -> list[str]:
    """Lines that say how many rows are compared, where some are not; none otherwise.

    Args:
        what: one variant is called.
    """
    if comparison.rows == comparison.rows_asked:
        return []
    left = f"{comparison.rows} of {comparison.rows_asked} rows"
    return ["", f"Only the {left} that every {what} finished are compared."]


def counted(number: int, what: str, many: str = "") -> str:
    """``1 round``, ``2 rounds``; ``many`` is the plural where it is no s alone."""
    return f"{number} {what}" if number == 1 else f"{number} {many or f'{what}s'}"


def signed(estimate: Estimate | None) -> str:
    """A difference with its sign and interval."""
    return NONE if estimate is None else shown(estimate, sign="+")


def kept_mean(change: Change | None) -> str:
    """The mean of the kept images."""
    return NONE if change is None else f"{change.kept.mean:.3f}"


def seconds_per_row(figures: Figures) -> str:
    """Seconds to three digits, where they are known."""
    return NONE if figures.seconds is None else f"{figures.seconds:.3g}"


def line(cells: Sequence[str]) -> str:
    """One line of a table."""
    return f"| {' | '.join(cells)} |"


def _gpus() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
