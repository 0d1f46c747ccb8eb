"""The page about models: the weights that a scorer's actor holds are those that ``plan`` counts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from noisesmith.pipeline.config import GeneratorConfig, ScorerConfig
from noisesmith.pipeline.cost.measure import weight_bytes
from noisesmith.pipeline.generators import find_generator
from noisesmith.pipeline.generators.decoder import decoder_without_weights
from noisesmith.pipeline.scorers import find_scorer
from tests import published, published_scorers

TEXT = (Path(__file__).parents[2] / "docs/models.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def vae_bytes(tmp_path_factory: pytest.TempPathFactory) -> int:
    """The weights of FLUX.1's VAE, which the page's scorers hold."""
    folder = published.folder_of(published.FLUX_DEV, tmp_path_factory.mktemp("flux"))
    found = find_generator(GeneratorConfig(model=str(folder), dtype="bfloat16", scheduler="flow_euler"))
    return weight_bytes(decoder_without_weights(found).vae)


@pytest.mark.parametrize(
    ("model", "family", "size"),
    [
        (published_scorers.QWEN3_8B, "Qwen3-VL", " (8B)"),
        (published_scorers.QWEN3_2B, "Qwen3-VL", " (2B)"),
        (published_scorers.ONEVISION, "LLaVA-OneVision", " (7B)"),
        (published_scorers.INTERNVL, "InternVL3", " (8B)"),
        (published_scorers.SMOLVLM, "SmolVLM2", " (2.2B)"),
        (published_scorers.GEMMA3, "Gemma 3", " (4B)"),
        (published_scorers.PALIGEMMA2, "PaliGemma 2", " (3B, 448)"),
        (published_scorers.HPSV2, "HPS v2, v2.1", ""),
        (published_scorers.IMAGE_REWARD, "ImageReward", ""),
    ],
)
def test_a_scorers_weights_are_stated_with_the_vae(
    model: str, family: str, size: str, vae_bytes: int, tmp_path: Path
) -> None:
    (row,) = re.findall(rf"^\| {re.escape(family)} \| `.*", TEXT, re.MULTILINE)
    (stated,) = re.findall(rf"([\d.]+) \+ [\d.]+ GB{re.escape(size)}", row)
    found = find_scorer(ScorerConfig(model=str(published.folder_of(model, tmp_path)), dtype="bfloat16"))
    weightless = found.family.without_weights(found)
    assert weightless is not None
    assert f"{(weight_bytes(weightless) + vae_bytes) / 1e9:.1f}" == stated
