"""A pipeline's sampling in parts: it stops after some of its steps, and goes on from there later, in any process.

Only the scheduler and the first latents are changed: the scheduler hands the pipeline's own loop a part of its
timesteps. All else is the library's code, so at batch size 1 the last part ends in the bits that one uninterrupted call
gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any

from noisesmith.pipeline.generators.samplers import evaluations_of, predicted_original
from noisesmith.pipeline.lazily import torch
from noisesmith.pipeline.models.libraries import Pipeline

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def stopped(pipe: Pipeline, steps: int, stop: int) -> Iterator[list[Tensor]]:
    """Let a call of a pipeline end after ``stop`` of its ``steps``, with the predicted x_0 in the place of z_0.

    Yields:
        a list that takes what :func:`resumed` needs: ``[B, 1 + H, …]`` float32 on the CPU, the pipeline's latents z_t
        and then H past predictions, which the sampler's next step reads.
    """
    part = _Part(pipe, steps, 0, stop, None)
    with part.patched():
        yield part.paused


@contextmanager
def resumed(pipe: Pipeline, steps: int, first: int, paused: Tensor) -> Iterator[None]:
    """Let a call of a pipeline go on after ``first`` of its ``steps``, whatever latents it is given.

    Args:
        paused: ``[B, 1 + H, …]``, as :func:`stopped` gives it.
    """
    with _Part(pipe, steps, first, None, paused).patched():
        yield


class _Part:
    """What takes the place of a pipeline's and its scheduler's methods.

    Attributes:
        paused: the state after the last step, once it is taken, of a part that stops before the end.
    """

    def __init__(self, pipe: Pipeline, steps: int, first: int, stop: int | None, start: Tensor | None) -> None:
        self.paused: list[Tensor] = []
        self._pipe: Any = pipe
        self._scheduler: Any = pipe.scheduler
        self._steps = steps
        self._first = first
        self._stop = stop
        self._start = start
        self._whole = torch.empty(0)
        self._left = 0
        self._set_timesteps: Any = pipe.scheduler.set_timesteps
        self._take_step: Any = pipe.scheduler.step
        self._prepare_latents: Any = pipe.prepare_latents

    @contextmanager
    def patched(self) -> Iterator[None]:
        with ExitStack() as stack:
            for owner, name in (
                (self._scheduler, "set_timesteps"),
                (self._scheduler, "step"),
                (self._pipe, "prepare_latents"),
            ):
                setattr(owner, name, _like(getattr(owner, name), getattr(self, name)))
                stack.callback(delattr, owner, name)
            yield

    def set_timesteps(self, *args: object, **options: object) -> None:
        scheduler = self._scheduler
        self._set_timesteps(*args, **options)
        self._whole = scheduler.timesteps
        begin = evaluations_of(scheduler, self._steps, self._first) if self._first else 0
        end = len(self._whole) if self._stop is None else evaluations_of(scheduler, self._steps, self._stop)
        self._left = end - begin
        if self._first and hasattr(scheduler, "_step_index"):
            scheduler._step_index = self._first
        scheduler.timesteps = self._whole[begin:end]

    def prepare_latents(self, *args: object, **options: object) -> object:
        prepared = self._prepare_latents(*args, **options)
        if self._start is None:
            return prepared
        latents, *others = prepared if isinstance(prepared, tuple) else (prepared,)
        at_stop = self._start[:, 0].to(latents.device, latents.dtype)
        return (at_stop, *others) if others else at_stop

    def step(
        self, prediction: Tensor, timestep: Tensor, sample: Tensor, *args: object, **options: object
    ) -> tuple[Tensor, ...]:
        scheduler = self._scheduler
        scheduler.timesteps = self._whole  # solvers look how many there are
        if self._start is not None:
            past = self._start[:, 1:].to(sample.device, sample.dtype)
            _restore(scheduler, self._first, past.unbind(1))
            self._start = None
        stepped: tuple[Tensor, ...] = self._take_step(prediction, timestep, sample, *args, **options)
        self._left -= 1
        if self._left or self._stop is None:
            return stepped
        state = torch.stack([stepped[0], *_past(scheduler)], dim=1)
        self.paused.append(state.float().cpu())
        original = predicted_original(scheduler, prediction, timestep, sample, stepped)
        return (original.to(stepped[0].dtype),)


def _like(method: Callable[..., object], replacement: Callable[..., object]) -> Callable[..., object]:
    """A replacement with the signature of a method, since pipelines look at it before they call."""

    @wraps(method)
    def call(*args: object, **options: object) -> object:
        return replacement(*args, **options)

    return call


def _past(scheduler: Any) -> Sequence[Tensor]:
    """The predictions of earlier steps that a scheduler's next step reads."""
    if hasattr(scheduler, "ets"):  # PNDM
        return scheduler.ets[-3:]  # type: ignore[no-any-return]
    if hasattr(scheduler, "model_outputs"):  # DPM-Solver++
        return [output for output in scheduler.model_outputs[1:] if output is not None]
    return ()


def _restore(scheduler: Any, taken: int, past: Sequence[Tensor]) -> None:
    """Put a scheduler where it was after ``taken`` steps."""
    if hasattr(scheduler, "ets"):
        scheduler.ets = list(past)
        scheduler.counter = taken + 1  # its first step takes two predictions
    elif hasattr(scheduler, "model_outputs"):
        order = scheduler.config.solver_order
        scheduler.model_outputs = [None] * (order - len(past)) + list(past)
        scheduler.lower_order_nums = min(taken, order)
