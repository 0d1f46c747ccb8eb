"""What is compared, and that each has the same budget."""

from __future__ import annotations

from pathlib import Path

import pytest

from noisesmith.pipeline.bench import base_config, choose
from noisesmith.pipeline.bench.kinds import Variant
from noisesmith.pipeline.bench.variants import DEFAULTS, REFERENCE
from noisesmith.pipeline.config import METHODS, NoiseDiffusionConfig, OptimizerConfig, validated
from noisesmith.pipeline.errors import UserError

STEPS, ROUNDS = 12, 20


def optimizer(variant: Variant) -> OptimizerConfig:
    plain = base_config(None, []).model_dump(mode="json")
    return validated(plain | {"optimizer": variant.optimizer(ROUNDS, STEPS)}, variant.label).optimizer


@pytest.mark.parametrize("variant", DEFAULTS, ids=lambda variant: variant.label)
def test_a_built_in_variant_is_a_valid_config_with_the_common_budget(variant: Variant) -> None:
    config = optimizer(variant)
    assert config.target_score is config.patience is None
    is_short = config.short_rounds(STEPS) is not None
    costs_otherwise = is_short or config.method in ("initno", "attend_and_excite")
    assert config.unet_evaluations == ((ROUNDS + 1) * STEPS if costs_otherwise else None)
    assert config.rounds == (100_000 if is_short else 0 if config.method == "none" else ROUNDS)


def test_every_method_is_compared_once_and_the_reference_is_the_papers() -> None:
    labels = [variant.label for variant in DEFAULTS]
    assert len(set(labels)) == len(labels)
    assert {variant.sections["optimizer"]["method"] for variant in DEFAULTS} == set(METHODS)
    reference = optimizer(next(variant for variant in DEFAULTS if variant.label == REFERENCE))
    assert isinstance(reference, NoiseDiffusionConfig)
    assert (reference.method, reference.candidates, reference.selection) == ("noise_diffusion", 50, "candidates")


def test_the_built_in_comparison_is_half_simple_and_half_complex() -> None:
    config = base_config(None, [])
    assert [(part.source, part.size) for part in config.corpus] == [("embedded/simple", 30), ("embedded/complex", 30)]
    assert config.generators.steps == STEPS


def test_own_variants_join_the_built_in_ones(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("slow_pgd: {method: pgd, step: 0.01}\ntiny_preview: {preview: {steps: 2}}\n")
    assert len(choose(None, path)) == len(DEFAULTS) + 2
    slow, preview = choose("noise_diffusion,slow_pgd, tiny_preview", path)[1:]
    assert slow.optimizer(5, 10) == {"rounds": 5, "method": "pgd", "step": 0.01}
    assert preview.optimizer(5, 10)["unet_evaluations"] == 60


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("- a\n", "must map labels"),
        ("", "must map labels"),
        ("Slow: {method: pgd}\n", "'Slow'"),
        ("3: {method: pgd}\n", "label 3"),
        ("pgd: {method: pgd}\n", "built-in"),
        ("slow: pgd\n", "slow"),
        ("slow: [\n", "not valid YAML"),
    ],
)
def test_a_file_that_holds_no_variants(text: str, named: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"own\.yaml") as error:
        choose(None, path)
    assert named in str(error.value)
