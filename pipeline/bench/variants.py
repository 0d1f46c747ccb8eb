"""The search methods that are compared, each with its usual settings. None is tuned more than another."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noisesmith.pipeline.config import read_yaml
from noisesmith.pipeline.errors import UserError

REFERENCE = "noise_diffusion"
Section = dict[str, Any]  # a section of a config, as YAML has it
UNLIMITED = 100_000  # rounds of a search that its U-Net evaluations bound
_LABEL = re.compile(r"[a-z][a-z0-9_]{0,39}")


@dataclass(frozen=True)
class Variant:
    """One search method with its settings: a label, the optimizer section of a config, and why it is compared."""

    label: str
    section: Section
    why: str

    @property
    def previews(self) -> bool:
        return bool(self.section.get("preview"))

    def optimizer(self, rounds: int, steps: int) -> Section:
        """The section with the budget that all variants share.

        The budget is M rounds, ``rounds``. With the first image they take (M + 1)·T U-Net evaluations, T = ``steps``.
        Where a round costs more or less than T, the evaluations limit the search instead: with previews, whose rounds
        are cheaper and therefore more, and with the methods that read attention. What the section sets itself has
        precedence.
        """
        limits = {"rounds": rounds}
        if self.previews:
            limits = {"rounds": UNLIMITED, "unet_evaluations": (rounds + 1) * steps}
        elif self.section.get("method") in ("initno", "attend_and_excite"):
            limits["unet_evaluations"] = (rounds + 1) * steps
        return limits | self.section


def _order(candidates: int) -> Section:
    return {"method": "noise_diffusion", "candidates": candidates, "selection": "order_statistic"}


def _preview(section: Section, keep: int = 1) -> Section:
    return section | {"preview": {"steps": 4, "keep": keep}}


_PAPER: Section = {"method": "noise_diffusion", "candidates": 50}
_FROM_BEST: Section = _PAPER | {"move_from": "best"}

DEFAULTS = (
    Variant("none", {"method": "none", "rounds": 0}, "the first image: what every search starts from"),
    Variant("random_sampling", {"method": "random_sampling"}, "best of M + 1 fresh noises: what a search must beat"),
    Variant("random_diffusion", {"method": "random_diffusion"}, "the paper's step without its gradient"),
    Variant(REFERENCE, _PAPER, "the paper's method, which all are compared with"),
    Variant("pgd", {"method": "pgd"}, "the paper's ablation: projected gradient ascent on the noise"),
    Variant("mean_variance", {"method": "mean_variance"}, "the paper's ablation: Adam on the mean and variance"),
    Variant("initno", {"method": "initno"}, "first noise by attention, no vision-language model (CVPR 2024)"),
    Variant("attend_and_excite", {"method": "attend_and_excite"}, "attention while sampling (SIGGRAPH 2023)"),
    Variant("order_statistic_50", _order(50), "one draw instead of the best of 50: should equal the reference"),
    Variant("order_statistic_1000", _order(1_000), "as if the best of 1,000 were drawn, at the cost of one"),
    Variant("order_statistic_1000000", _order(1_000_000), "as if the best of 1,000,000 were drawn"),
    Variant("preview_4", _preview(_PAPER), "rounds of 4 sampler steps, the best rendered again at full T"),
    Variant("preview_4_keep_2", _preview(_PAPER, 2), "the best two rendered again, in case a preview misleads"),
    Variant("preview_4_best", _preview(_FROM_BEST), "previews, each moving away from the best so far"),
    Variant("preview_4_keep_2_best", _preview(_FROM_BEST, 2), "both of the above"),
    Variant("preview_order_1000", _preview(_order(1_000)), "previews guided as by the best of 1,000"),
)


def choose(names: str | None, own: Path | None) -> list[Variant]:
    """The variants of a comparison, in the order asked for.

    Args:
        names: labels separated by commas; all variants when absent.
        own: YAML file of further variants, a mapping from label to optimizer section.

    Raises:
        UserError: a label is unknown or named twice, the reference is not named, or the file is no such mapping.
    """
    variants = [*DEFAULTS]
    if own is not None:
        variants += _read(own)
    known = {variant.label: variant for variant in variants}
    if names is None:
        return list(known.values())
    chosen = [name.strip() for name in names.split(",")]
    for name in chosen:
        if name not in known:
            raise UserError(f"--methods: no variant {name!r}; choose among {', '.join(known)}")
        if chosen.count(name) > 1:
            raise UserError(f"--methods: {name} is named twice; name it once")
    if REFERENCE not in chosen:
        raise UserError(f"--methods: lacks {REFERENCE}, which all are compared with; add it")
    return [known[name] for name in chosen]


def _read(path: Path) -> list[Variant]:
    content = read_yaml(path, "variants", "write one with lines such as slow_pgd: {method: pgd, step: 0.01}")
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: must map labels to optimizer sections, such as slow_pgd: {{method: pgd, step: 0.01}}")
    taken = {variant.label for variant in DEFAULTS}
    variants: list[Variant] = []
    for label, section in content.items():
        if not isinstance(label, str) or not _LABEL.fullmatch(label):
            raise UserError(f"{path}: label {label!r} must be lower-case letters, digits and _, at most 40")
        if label in taken:
            raise UserError(f"{path}: {label} is a built-in variant; choose another label")
        if not isinstance(section, dict):
            raise UserError(f"{path}: {label} must be an optimizer section, such as {{method: pgd, step: 0.01}}")
        variants.append(Variant(label, section, f"own variant of {path.name}"))
    return variants
