"""Shared fixtures: no network, one torch thread, tiny models of the true classes."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", RAY_USAGE_STATS_ENABLED="0", RAY_DEDUP_LOGS="0", TOKENIZERS_PARALLELISM="false")
os.environ["OMP_NUM_THREADS"] = "1"  # of torch, here and in every process that a test starts

import hypothesis
import pytest

from tests import tiny, tiny_scorers

# No test may depend on how busy the machine is, nor on chance: a run tries the same examples as the one before.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.register_profile("explore", deadline=None)
hypothesis.settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--chaos-seeds", type=int, default=3, help="seeds of the tests that kill processes")
    parser.addoption("--device", default="cuda", choices=("cuda", "cpu"), help="where the tests in tests/gpu run")
    parser.addoption("--no-skips", action="store_true", help="a skipped test fails, except those that need a GPU")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the files that take longest, so that no worker is left with one of them at the end."""
    items.sort(key=lambda item: not any(item.get_closest_marker(mark) for mark in ("chaos", "slow")))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    expected = hasattr(report, "wasxfail") or item.get_closest_marker("gpu") is not None
    if report.skipped and not expected and item.config.getoption("--no-skips"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped: {report.longreprtext}"
    return report


@pytest.fixture(scope="session")
def tiny_sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``StableDiffusionPipeline`` folder with random weights."""
    return tiny.stable_diffusion(tmp_path_factory.mktemp("tiny") / "sd")


@pytest.fixture(scope="session")
def tiny_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``LlavaForConditionalGeneration`` folder with random weights, whose processor resizes and crops."""
    return tiny.llava(tmp_path_factory.mktemp("tiny") / "llava")


@pytest.fixture(scope="session")
def tiny_clip_flant5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP-FlanT5 folder laid out as published, with random weights and a vision tower next to them."""
    return tiny_scorers.clip_flant5(tmp_path_factory.mktemp("tiny") / "clip-flant5")


@pytest.fixture(scope="session")
def tiny_instructblip_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ``InstructBlipForConditionalGeneration`` folder over T5 with random weights."""
    return tiny_scorers.instructblip(tmp_path_factory.mktemp("tiny") / "instructblip-t5", decoder_only=False)


@pytest.fixture(scope="session")
def tiny_instructblip_vicuna(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ``InstructBlipForConditionalGeneration`` folder over a Llama with random weights."""
    return tiny_scorers.instructblip(tmp_path_factory.mktemp("tiny") / "instructblip-vicuna", decoder_only=True)
