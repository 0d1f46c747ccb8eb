"""Shared fixtures: no network, one torch thread, tiny models of the true classes."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", RAY_USAGE_STATS_ENABLED="0", RAY_DEDUP_LOGS="0", TOKENIZERS_PARALLELISM="false")

import hypothesis
import pytest
import torch

from tests import tiny

torch.set_num_threads(1)
hypothesis.settings.register_profile("untimed", deadline=None)  # no test may depend on how busy the machine is
hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="session")
def tiny_sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``StableDiffusionPipeline`` folder with random weights."""
    return tiny.stable_diffusion(tmp_path_factory.mktemp("tiny") / "sd")


@pytest.fixture(scope="session")
def tiny_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``LlavaForConditionalGeneration`` folder with random weights, whose processor resizes and crops."""
    return tiny.llava(tmp_path_factory.mktemp("tiny") / "llava")
