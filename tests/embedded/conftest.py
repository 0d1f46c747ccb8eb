"""What the tests of the training share."""

import functools
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from diffusers import StableDiffusionPipeline

from noisesmith.pipeline.embedded import weights
from noisesmith.pipeline.embedded.training.loop import fit

State = dict[str, torch.Tensor]
Trained = Callable[[ModuleType, Callable[[Path], torch.nn.Module]], tuple[State, State]]


@pytest.fixture(scope="session")
def pipe() -> StableDiffusionPipeline:
    """The built-in diffusion model. Tests leave it unchanged."""
    return StableDiffusionPipeline.from_pretrained(weights("sd"))


@pytest.fixture
def whole_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trained:
    """Trains with a stage's ``fit`` twice: in one go, and interrupted after two steps and then resumed.

    Given the stage's module and what trains with checkpoints in a folder, it returns both final states.
    """

    def train_twice(stage: ModuleType, train_into: Callable[[Path], torch.nn.Module]) -> tuple[State, State]:
        whole = train_into(tmp_path / "whole").state_dict()
        torch.manual_seed(123)  # a resumed training must not depend on what was drawn before
        with monkeypatch.context() as patch:
            patch.setattr(stage, "fit", functools.partial(fit, stop_after=2))
            train_into(tmp_path / "halves")
        return whole, train_into(tmp_path / "halves").state_dict()

    return train_twice


def assert_equal(one: State, other: State) -> None:
    """Two states have the same names and, bit for bit, the same values."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name
