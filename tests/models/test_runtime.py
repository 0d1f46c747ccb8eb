"""Two calls of one process share its models, and what a failed call held is free before the next one has them."""

from __future__ import annotations

import threading
import weakref

import pytest
import torch

from noisesmith.pipeline.errors import MemoryExhausted
from noisesmith.pipeline.models import runtime
from noisesmith.pipeline.models.runtime import ExclusiveUse, memory_guard

PATIENCE = 60.0  # seconds after which a thread is taken for stuck


def test_one_call_at_a_time_has_its_turn() -> None:
    models = threading.Lock()
    began, asked, order = threading.Event(), threading.Event(), []

    def second() -> None:
        assert began.wait(PATIENCE)
        asked.set()
        with ExclusiveUse(models):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    use = ExclusiveUse(models)
    with use:
        began.set()
        assert asked.wait(PATIENCE)
        order.append("first")
    thread.join(PATIENCE)
    assert order == ["first", "second"]
    assert use.seconds > 0


def _fail(held: list[weakref.ref[torch.Tensor]]) -> None:
    batch = torch.zeros(3)
    held.append(weakref.ref(batch))
    torch.empty(1 << 60, dtype=torch.uint8)


def test_a_turn_that_failed_lets_go_of_its_batch() -> None:
    held: list[weakref.ref[torch.Tensor]] = []
    with pytest.raises(RuntimeError, match="allocate") as still_at_hand, ExclusiveUse(threading.Lock()):
        _fail(held)
    assert held[0]() is None
    assert still_at_hand.value.__traceback__ is not None


def test_a_batch_is_let_go_of_before_memory_is_returned_to_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[weakref.ref[torch.Tensor]] = []
    alive = []
    monkeypatch.setattr(runtime, "free_memory", lambda: alive.append(held[0]() is not None))
    with pytest.raises(MemoryExhausted), memory_guard():
        _fail(held)
    assert alive == [False]
