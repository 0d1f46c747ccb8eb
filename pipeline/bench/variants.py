"""The search methods that are compared, each with its usual settings. None is tuned more than another."""

from __future__ import annotations

from pathlib import Path

from noisesmith.pipeline.bench.kinds import METHODS, Section, Variant, pick, read_own

REFERENCE = METHODS.reference


def _method(label: str, optimizer: Section, why: str) -> Variant:
    return Variant(label, {"optimizer": optimizer}, why)


def _order(candidates: int) -> Section:
    return {"method": "noise_diffusion", "candidates": candidates, "selection": "order_statistic"}


def _preview(section: Section, keep: int = 1) -> Section:
    return section | {"preview": {"steps": 4, "keep": keep}}


def _probe(section: Section, keep: int) -> Section:
    return section | {"probe": {"at": 0.4, "keep": keep}}


_PAPER: Section = {"method": "noise_diffusion", "candidates": 50}
_FROM_BEST: Section = _PAPER | {"move_from": "best"}

DEFAULTS = (
    _method("none", {"method": "none", "rounds": 0}, "the first image: what every search starts from"),
    _method("random_sampling", {"method": "random_sampling"}, "best of M + 1 fresh noises: what a search must beat"),
    _method("random_diffusion", {"method": "random_diffusion"}, "the paper's step without its gradient"),
    _method(REFERENCE, _PAPER, "the paper's method, which all are compared with"),
    _method("pgd", {"method": "pgd"}, "the paper's ablation: projected gradient ascent on the noise"),
    _method("mean_variance", {"method": "mean_variance"}, "the paper's ablation: Adam on the mean and variance"),
    _method("initno", {"method": "initno"}, "first noise by attention, no vision-language model (CVPR 2024)"),
    _method("attend_and_excite", {"method": "attend_and_excite"}, "attention while sampling (SIGGRAPH 2023)"),
    _method("order_statistic_50", _order(50), "one draw instead of the best of 50: should equal the reference"),
    _method("order_statistic_1000", _order(1_000), "as if the best of 1,000 were drawn, at the cost of one"),
    _method("order_statistic_1000000", _order(1_000_000), "as if the best of 1,000,000 were drawn"),
    _method("preview_4", _preview(_PAPER), "rounds of 4 sampler steps, the best rendered again at full T"),
    _method("preview_4_keep_2", _preview(_PAPER, 2), "the best two rendered again, in case a preview misleads"),
    _method("preview_4_best", _preview(_FROM_BEST), "previews, each moving away from the best so far"),
    _method("preview_4_keep_2_best", _preview(_FROM_BEST, 2), "both of the above"),
    _method("probe_40", _probe(_PAPER, 1), "rounds scored after 40 % of the steps, the best goes on from there"),
    _method("probe_40_keep_2", _probe(_PAPER, 2), "the best two go on, in case a probe misleads"),
    _method("probe_40_random_keep_2", _probe({"method": "random_sampling"}, 2), "the same with fresh noises"),
    _method("preview_order_1000", _preview(_order(1_000)), "previews guided as by the best of 1,000"),
)


def choose(names: str | None, own: Path | None) -> list[Variant]:
    """The variants of a comparison of methods, in the order asked for.

    Args:
        names: labels separated by commas; all variants when absent.
        own: YAML file of further variants, a mapping from label to optimizer section.

    Raises:
        UserError: a label is unknown or named twice, the reference is not named, or the file is no such mapping.
    """
    variants = [*DEFAULTS]
    if own is not None:
        for label, section in read_own(own, {variant.label for variant in DEFAULTS}, METHODS).items():
            variants.append(_method(label, section, f"own variant of {own.name}"))
    return pick(variants, names, METHODS)
