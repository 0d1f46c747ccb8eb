"""The memory that the newer configs state is what plan prints for their models' architectures."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from noisesmith.pipeline.cli import main
from noisesmith.pipeline.config import GeneratorConfig, ScorerConfig, load_config
from noisesmith.pipeline.cost.scorer import Weightless, score_cost
from noisesmith.pipeline.generators import find_generator
from noisesmith.pipeline.generators.decoder import decoder_without_weights
from noisesmith.pipeline.scorers import find_scorer
from tests import published

CONFIGS = Path(__file__).parents[2] / "configs"
STATED = re.compile(r"#   (generator|scorer) +([\d.]+) \+ +([\d.]+) GB")
PRINTED = re.compile(r"a (generator|scorer) [\d.]+ G parameters, ([\d.]+) GB \+ ([\d.]+) GB of activations")


@pytest.mark.parametrize("name", ["z-image-turbo-one-gpu"])  # the others take 11 to 23 seconds each
def test_plan_prints_the_memory_that_a_config_states(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = CONFIGS / f"{name}.yaml"
    config = load_config(path)
    generator = published.folder_of(config.generators.model, tmp_path)
    scorer = published.folder_of(config.panel[0].model, tmp_path)
    overrides = [f"generators.model={generator}", f"scorers.model={scorer}", "ray.address=auto"]
    monkeypatch.setattr(sys, "argv", ["noisesmith", "plan", str(path), *overrides])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    stated = _gigabytes(STATED, path.read_text())
    printed = _gigabytes(PRINTED, " ".join(capsys.readouterr().out.split()))
    assert stated.keys() == printed.keys() == {"generator", "scorer"}
    for side, amounts in stated.items():
        assert amounts == pytest.approx(printed[side], abs=0.1)


def test_plan_counts_what_a_checkpointed_vae_keeps_and_computes_again(tiny_sd: Path, tiny_llava: Path) -> None:
    scorer = find_scorer(ScorerConfig(model=str(tiny_llava)))
    costs = []
    for on in (False, True):
        found = find_generator(GeneratorConfig(model=str(tiny_sd), height=64, width=64, vae_checkpointing=on))
        weightless = Weightless(scorer, scorer.family.without_weights(scorer), gradient=True)
        costs.append(score_cost(decoder_without_weights(found), [weightless], found.spec, 2))
    without, checkpointed = costs
    assert checkpointed.peak_bytes < 0.85 * without.peak_bytes
    assert without.flops < checkpointed.flops < 1.4 * without.flops


def _gigabytes(pattern: re.Pattern[str], text: str) -> dict[str, tuple[float, float]]:
    """Weights and activations of each side."""
    return {side: (float(weights), float(batch)) for side, weights, batch in pattern.findall(text)}
