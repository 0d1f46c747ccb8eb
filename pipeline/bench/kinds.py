"""What can be compared: search methods, or verifiers. A variant replaces sections of a config."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noisesmith.pipeline.config import read_yaml
from noisesmith.pipeline.errors import UserError

Section = dict[str, Any]  # a section of a config, as YAML has it
UNLIMITED = 100_000  # rounds of a search that its U-Net evaluations bound
_LABEL = re.compile(r"[a-z][a-z0-9_]{0,39}")


@dataclass(frozen=True)
class Kind:
    """What a comparison varies.

    Attributes:
        name: of the command below ``bench``, and of the files that it writes.
        reference: label of the variant that all are compared with.
        option: the command's option that chooses variants, if it has one.
        sets: config keys that the comparison sets itself.
        instead: the options that set them, for messages.
        config: the file next to this one that is taken where no config is given.
        holds, holds_many, example_label, example: what a label of ``--variants FILE`` maps to, for messages.
    """

    name: str
    reference: str
    option: str
    sets: tuple[str, ...]
    holds: str = ""
    holds_many: str = ""
    example_label: str = ""
    example: str = ""
    instead: str = "--rounds, --seeds, --variants or --out"
    config: str = "embedded.yaml"


METHODS = Kind(
    name="methods",
    reference="noise_diffusion",
    option="--methods",
    sets=("optimizer", "seed", "name", "output.dir"),
    holds="an optimizer section",
    holds_many="optimizer sections",
    example_label="slow_pgd",
    example="{method: pgd, step: 0.01}",
)
VERIFIERS = Kind(
    name="verifiers",
    reference="yes",
    option="--only",
    sets=("optimizer.rounds", "combine", "seed", "name", "output.dir"),
    holds="a mapping with scorers and combine",
    holds_many="mappings with scorers and combine",
    example_label="yes_no",
    example="{scorers: {model: embedded, readout: yes_no}}",
)


@dataclass(frozen=True)
class Variant:
    """What is compared: a label, the sections of a config that it replaces, and why it is compared."""

    label: str
    sections: Section
    why: str

    @property
    def short_rounds(self) -> bool:
        """Whether its rounds are previews or probes."""
        section: Section = self.sections["optimizer"]
        return bool(section.get("preview") or section.get("probe"))

    def optimizer(self, rounds: int, steps: int) -> Section:
        """The optimizer section with the budget that all variants share.

        The budget is M rounds, ``rounds``. With the first image they take (M + 1)·T U-Net evaluations, T = ``steps``.
        Where a round costs more or less than T, the evaluations limit the search instead: with previews and probes,
        whose rounds are cheaper and therefore more, and with the methods that read attention. What the section sets
        itself has precedence.
        """
        section: Section = self.sections["optimizer"]
        limits = {"rounds": rounds}
        if self.short_rounds:
            limits = {"rounds": UNLIMITED, "unet_evaluations": (rounds + 1) * steps}
        elif section.get("method") in ("initno", "attend_and_excite"):
            limits["unet_evaluations"] = (rounds + 1) * steps
        return limits | section

    def changes(self, rounds: int, steps: int) -> Section:
        """The sections that the variant replaces, with the shared budget; see :meth:`optimizer`."""
        return self.sections | {"optimizer": self.optimizer(rounds, steps)}


def pick(variants: Sequence[Variant], names: str | None, kind: Kind) -> list[Variant]:
    """The variants with these labels, in their order.

    Args:
        names: labels separated by commas; all variants when absent.

    Raises:
        UserError: a label is unknown or named twice, or the reference is not named.
    """
    known = {variant.label: variant for variant in variants}
    if names is None:
        return list(known.values())
    chosen = [name.strip() for name in names.split(",")]
    for name in chosen:
        if name not in known:
            raise UserError(f"{kind.option}: no variant {name!r}; choose among {', '.join(known)}")
        if chosen.count(name) > 1:
            raise UserError(f"{kind.option}: {name} is named twice; name it once")
    if kind.reference not in chosen:
        raise UserError(f"{kind.option}: lacks {kind.reference}, which all are compared with; add it")
    return [known[name] for name in chosen]


def read_own(path: Path, taken: Collection[str], kind: Kind) -> dict[str, Section]:
    """What a YAML file of variants maps its labels to.

    Args:
        taken: labels of built-in variants.

    Raises:
        UserError: the file cannot be read, is no mapping of labels to mappings, or a label cannot be used.
    """
    example = f"{kind.example_label}: {kind.example}"
    content = read_yaml(path, "variants", f"write one with lines such as {example}")
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: must map labels to {kind.holds_many}, such as {example}")
    for label, section in content.items():
        if not isinstance(label, str) or not _LABEL.fullmatch(label):
            raise UserError(f"{path}: label {label!r} must be lower-case letters, digits and _, at most 40")
        if label in taken:
            raise UserError(f"{path}: {label} is a built-in variant; choose another label")
        if not isinstance(section, dict):
            raise UserError(f"{path}: {label} must be {kind.holds}, such as {kind.example}")
    return content
