"""A worker prepares one call while another one uses its models. Without Ray: the actors' own classes in two threads."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from noisesmith.actors.generator import GenerateOrder, GeneratorActor
from noisesmith.actors.packs import Located, pack_tensors
from noisesmith.actors.scorer import RenderOrder, ScorerActor
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.generators import LatentSpec
from noisesmith.pipeline.images import encode_png
from noisesmith.pipeline.noise import NoiseKey, statistics
from noisesmith.pipeline.search.propose import propose
from noisesmith.pipeline.search.tasks import GenerateTask

SHAPE = (4, 8, 8)
PATIENCE = 60.0  # seconds after which a call is taken for stuck


def _worker(actor: Any, *arguments: object) -> Any:
    """The actor's class as a plain object."""
    return actor.__ray_metadata__.modified_class(*arguments)


def _order(prompt: str) -> bytes:
    return pickle.dumps([GenerateOrder(GenerateTask(prompt, (), NoiseKey(0, prompt, 0), 2))])


def test_noises_are_drawn_and_described_while_the_model_is_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    began, drawn, described = threading.Event(), threading.Event(), threading.Event()

    def sample(prompts: list[str], noise: Tensor, steps: int) -> Tensor:
        if prompts == ["second"]:
            assert described.wait(PATIENCE), "the first call describes its noise during the second one's use"
        else:
            began.set()
            assert drawn.wait(PATIENCE), "the second call draws its noise during the first one's use"
        return noise

    def proposed(*arguments: Any) -> Any:
        proposals = propose(*arguments)
        if arguments[2][0].prompt == "second":
            drawn.set()
        return proposals

    def describe(noise: Tensor) -> Any:
        described.set()
        return statistics(noise)

    monkeypatch.setattr("noisesmith.pipeline.search.generate.propose", proposed)
    monkeypatch.setattr("noisesmith.pipeline.search.generate.statistics", describe)
    worker = _worker(GeneratorActor, RunConfig())
    worker._generator = SimpleNamespace(
        spec=LatentSpec(SHAPE, 64, 64, SHAPE), sample=sample, plain=str, tokens_cut=lambda prompts: [0] * len(prompts)
    )
    with ThreadPoolExecutor(2) as threads:
        one = threads.submit(worker.generate, _order("first"))
        assert began.wait(PATIENCE)
        two = threads.submit(worker.generate, _order("second"))
        reports = [one.result(PATIENCE)[0], two.result(PATIENCE)[0]]
    assert all(report.seconds > 0 for report in reports)
    assert reports[0].records[0].digest != reports[1].records[0].digest


def test_png_files_are_written_while_the_models_are_free(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = _worker(ScorerActor, RunConfig(), 0)
    encoded = []

    def encode_outside(image: Tensor) -> bytes:
        encoded.append(worker._models.locked())
        return encode_png(image)

    monkeypatch.setattr("noisesmith.pipeline.search.render.encode_png", encode_outside)
    worker._held = SimpleNamespace(decoder=lambda latents: torch.rand(len(latents), 3, 64, 64), judges={})
    pack, (first, kept) = pack_tensors([torch.zeros(SHAPE), torch.ones(SHAPE)])
    order = RenderOrder("a cat", [Located(0, first), Located(0, kept)])
    report, _ = worker.render(pickle.dumps([order]), pack)
    assert encoded == [False, False]
    assert len(report.pictures[0]) == 2
