"""A batch that does not fit into the device's memory: recognised, cleaned up after, and made in halves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from noisesmith.pipeline.errors import MemoryExhausted
from noisesmith.pipeline.generators import Generator
from noisesmith.pipeline.models.runtime import free_memory, memory_guard
from tests.gpu.conftest import Folders
from tests.gpu.models import distance, load, noise

pytestmark = pytest.mark.gpu

ROWS = 2048
ROOM = 64 * 2**20  # bytes for activations: enough for some dozens of tiny images
STEPS = 1


@pytest.fixture
def gpu(device: str) -> Iterator[str]:
    """A device whose memory a test may take away from this process, and which gets it back."""
    if device != "cuda":
        pytest.skip("memory that a test may take away needs a CUDA device")
    free_memory()
    yield device
    torch.cuda.set_per_process_memory_fraction(1.0)


def leave_little_memory() -> None:
    """Leave this process little more of the GPU's memory than it holds."""
    free_memory()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + ROOM) / total)


def sample_in_halves(generator: Generator, rows: Tensor, sizes: list[int]) -> Tensor:
    """Sample all rows, in batches that are halved until one fits, as the driver of a run does."""
    size = len(rows)
    made: list[Tensor] = []
    while (done := sum(map(len, made))) < len(rows):
        batch = rows[done : done + size]
        try:
            with memory_guard():
                made.append(generator.sample(["a cat"] * len(batch), batch, STEPS))
        except MemoryExhausted:
            size = len(batch) // 2
            assert size, "one row does not fit either"
            sizes.append(size)
    return torch.cat(made)


def test_a_batch_that_does_not_fit_is_made_in_halves(gpu: str, folders: Folders) -> None:
    generator = load(folders["sd1"], gpu)
    rows = noise(generator, ROWS)
    parts = [generator.sample(["a cat"] * len(part), part, STEPS) for part in rows.split(64)]
    leave_little_memory()
    sizes: list[int] = []
    made = sample_in_halves(generator, rows, sizes)
    assert sizes, "the memory was meant to run out"
    assert distance(made, torch.cat(parts)) < 1e-4


def test_a_failed_batch_leaves_no_memory_behind(gpu: str, folders: Folders) -> None:
    generator = load(folders["sd1"], gpu)
    generator.sample(["a cat"], noise(generator, 1), STEPS)
    leave_little_memory()
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        with pytest.raises(MemoryExhausted, match="out of memory"), memory_guard():
            generator.sample(["a cat"] * ROWS, noise(generator, ROWS), STEPS)
        assert torch.cuda.memory_allocated() <= before + 2**20


def test_an_allocation_beyond_the_device_is_told_from_other_errors(device: str) -> None:
    with pytest.raises(MemoryExhausted), memory_guard():
        torch.empty(1 << 50, dtype=torch.uint8, device=device)
    with pytest.raises(RuntimeError, match="shape"), memory_guard():
        torch.zeros(3, device=device).reshape(2)
    with memory_guard():
        assert float(torch.ones(3, device=device).sum()) == 3
