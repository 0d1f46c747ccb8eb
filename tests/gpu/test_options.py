"""Options of a generator that only a GPU shows: compiled, and kept in the host's memory while it does not work."""

from __future__ import annotations

import pytest
import torch

from noisesmith.pipeline.models.runtime import device_for
from tests.gpu.conftest import Folders
from tests.gpu.models import PROMPTS, STEPS, distance, load, noise

pytestmark = pytest.mark.gpu


def test_a_worker_with_a_part_of_a_gpu_uses_it(device: str) -> None:
    if device == "cuda":
        assert device_for(0.25) == "cuda"
    assert device_for(0) == "cpu"


@pytest.mark.parametrize(("family", "dtype"), [("sd3", "float32"), ("sd3", "bfloat16"), ("sd1", "bfloat16")])
def test_a_compiled_model_gives_the_same_latents(family: str, dtype: str, device: str, folders: Folders) -> None:
    if device == "cpu" and (family, dtype) != ("sd3", "float32"):
        pytest.skip("takes minutes to compile for a CPU")
    plain = load(folders[family], device, dtype=dtype)
    expected = plain.sample(PROMPTS, noise(plain), STEPS)
    compiled = load(folders[family], device, dtype=dtype, compile=True)
    assert distance(compiled.sample(PROMPTS, noise(plain), STEPS), expected) < (1e-4 if dtype == "float32" else 0.1)


@pytest.mark.parametrize("family", ["sd1", "sdxl", "sd3"])
def test_an_offloaded_model_gives_the_same_latents_and_leaves_the_gpu(
    family: str, device: str, folders: Folders
) -> None:
    plain = load(folders[family], device)
    expected = plain.sample(PROMPTS, noise(plain), STEPS)
    offloaded = load(folders[family], device, cpu_offload=True, num_gpus=1)
    assert distance(offloaded.sample(PROMPTS, noise(plain), STEPS), expected) < 1e-5
    parts = [part for part in offloaded.pipe.components.values() if isinstance(part, torch.nn.Module)]
    idle = [part for part in parts if next(part.parameters()).device.type == "cpu"]
    assert len(idle) >= len(parts) - 1, "all but the part that worked last"
