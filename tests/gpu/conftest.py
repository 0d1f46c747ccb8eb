"""The device of these tests: CUDA, or what ``--device`` says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests import tiny_generators
from tests.tiny_families import SCORERS

BUILDERS = tiny_generators.FAMILIES | SCORERS


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    """``cuda``; ``cpu`` runs the same code on a machine without a GPU, and shows that the tests themselves work."""
    device = str(request.config.getoption("--device"))
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return device


@pytest.fixture(autouse=True)
def _whole_float32(device: str) -> Iterator[None]:
    """No TF32, which rounds float32 to 10 bits in convolutions: what is left is the order of sums."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


class Folders:
    """Checkpoints of tiny models, each made when it is first asked for."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __getitem__(self, name: str) -> Path:
        folder = self._root / name
        if not folder.exists():
            BUILDERS[name](folder)
        return folder


@pytest.fixture(scope="session")
def folders(device: str, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return Folders(tmp_path_factory.mktemp("models"))
