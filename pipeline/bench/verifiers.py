"""The verifiers that are compared while the search method is held fixed: ways to ask a config's scorers."""

from __future__ import annotations

from pathlib import Path

from noisesmith.pipeline.bench.kinds import VERIFIERS, Section, Variant, pick, read_own
from noisesmith.pipeline.config import MemberConfig, RunConfig, ScorerConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.preflight import find_models

_CAN_ANSWER = ("yes", "yes_no")  # readouts with which a scorer may be asked questions about parts of a prompt
_PANELS = ("mean", "min", "rank", "questions_mean")


def choose_verifiers(base: RunConfig, names: str | None, own: Path | None) -> list[Variant]:
    """The variants of a comparison of verifiers, in the order asked for.

    Four are ways to ask the config's first scorer alone. For a list of scorers there also are each other scorer alone,
    the panel of all by each ``combine``, and the panel that asks questions about the prompts' parts.

    Args:
        base: the config that is compared with. Its optimizer section holds for all variants.
        names: labels separated by commas; all variants when absent.
        own: YAML file of further variants, a mapping from label to ``{scorers: …, combine: …}``.

    Raises:
        UserError: a row would end early by its verifier's score, a scorer has the label of a variant, a model cannot be
            found, or as :func:`pick` and :func:`read_own`.
    """
    optimizer = _shared_optimizer(base)
    sections = _ways_to_ask(base.panel[0])
    if len(base.panel) > 1:
        sections |= _alone(base, sections)
        sections |= _panels(base)
    whys = {label: _why(label, base) for label in sections}
    if own is not None:
        for label, section in read_own(own, sections, VERIFIERS).items():
            sections[label] = _checked_own(own, label, section)
            whys[label] = f"own variant of {own.name}"
    variants: list[Variant] = []
    for label, section in sections.items():
        # Acceptance is left out: a threshold of one verifier's score says nothing about another's.
        fixed = {"optimizer": optimizer, "accept": None}
        variants.append(Variant(label, {"combine": None} | section | fixed, whys[label]))
    return pick(variants, names, VERIFIERS)


def _shared_optimizer(base: RunConfig) -> Section:
    """The config's optimizer section without its rounds, which the comparison sets."""
    method = base.optimizer
    for field in ("target_score", "patience"):
        if getattr(method, field) is not None:
            raise UserError(
                f"optimizer.{field}: ends a row by the score of its verifier, so that verifiers would be compared "
                "after different numbers of evaluations; set it to null"
            )
    return method.model_dump(mode="json", exclude_none=True, exclude={"rounds"})


def _one(member: MemberConfig) -> Section:
    """A scorer's section as that of the only scorer, at its place."""
    section = member.model_dump(mode="json", include=set(ScorerConfig.model_fields))
    return section | {"asks": None if section["asks"] == "prompt" else section["asks"]}


def _asking(section: Section, asks: str | None, readout: str) -> Section:
    """A scorer's section with another way to ask it."""
    changed = section | {"asks": asks, "readout": readout}
    if asks is None:
        changed["hint"] = None
    if (section["asks"] or "prompt", section["readout"]) != (asks or "prompt", readout):
        changed["calibration"] = None  # it was fitted to the answers of the other way
    return changed


def _plain_readout(section: Section) -> str:
    """The section's readout where it reads a yes, else ``yes``."""
    readout: str = section["readout"]
    return readout if readout in _CAN_ANSWER else "yes"


def _ways_to_ask(first: MemberConfig) -> dict[str, Section]:
    """The variants of one scorer alone."""
    section = _one(first)
    readout = _plain_readout(section)
    return {
        VERIFIERS.reference: {"scorers": _asking(section, None, readout)},
        "questions": {"scorers": _asking(section, "questions", readout)},
        "contrastive": {"scorers": _asking(section, None, "contrastive")},
        "caption": {"scorers": _asking(section, None, "caption")},
    }


def _alone(base: RunConfig, taken: dict[str, Section]) -> dict[str, Section]:
    """Each scorer of a list alone, as the config asks it, unless it is there already."""
    found: dict[str, Section] = {}
    for member in base.panel:
        section = {"scorers": _one(member)}
        if section not in taken.values():
            found[member.name] = section
    clash = {member.name for member in base.panel} & {*taken, *_PANELS}
    if clash:
        raise UserError(f"scorers: the name {min(clash)} is the label of a built-in variant; name the scorer otherwise")
    return found


def _panels(base: RunConfig) -> dict[str, Section]:
    """All scorers of a list together."""
    scorers: list[Section] = base.model_dump(mode="json")["scorers"]
    panels: dict[str, Section] = {}
    for combine in ("mean", "min", "rank"):
        panels[combine] = {"scorers": scorers, "combine": combine}
    can_answer = {}
    for member, model in zip(base.panel, find_models(base).scorers, strict=True):
        can_answer[member.name] = model.answers_questions
    if any(can_answer.values()):
        asking = []
        for section in scorers:
            if can_answer[section["name"]]:
                section = _asking(section, "questions", _plain_readout(section))
            asking.append(section)
        panels["questions_mean"] = {"scorers": asking, "combine": "mean"}
    return panels


def _why(label: str, base: RunConfig) -> str:
    first = base.panel[0].name if len(base.panel) > 1 else "the scorer"
    whys = {
        VERIFIERS.reference: f"{first} alone, asked whether the image shows the whole prompt; all are compared with it",
        "questions": f"{first} alone, asked about each part of the prompt",
        "contrastive": f"{first} alone, P(yes) of the prompt against edits of it",
        "caption": f"{first} alone, the likelihood of the prompt as a caption",
        "mean": "all scorers, the geometric mean of their scores",
        "min": "all scorers, the lowest of their scores",
        "rank": "all scorers, the mean while searching; the kept image has the best mean rank",
        "questions_mean": "all scorers, the geometric mean; those that can are asked about each part of the prompt",
    }
    return whys.get(label, f"{label} alone, as the config asks it")


def _checked_own(path: Path, label: str, section: Section) -> Section:
    """An own variant's sections.

    Raises:
        UserError: it has no scorers, or anything else than scorers and combine.
    """
    unknown = [str(key) for key in section if key not in ("scorers", "combine")]
    if unknown:
        raise UserError(f"{path}: {label} has {unknown[0]}, but a verifier is scorers and combine; remove it")
    if not section.get("scorers"):
        raise UserError(f"{path}: {label} has no scorers; write it as {VERIFIERS.example}")
    return section
