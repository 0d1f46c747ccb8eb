"""The training loop that all stages share: AdamW, warm-up and cosine decay, average of weights, exact resume.

Randomness at step k depends on (stage, seed, k) only, so a resumed training ends in the same state as an unbroken one.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

Log = Callable[[str], None]
LossFn = Callable[[int, random.Random], tuple[Tensor, dict[str, float]]]


@dataclass(frozen=True)
class StageSettings:
    """One stage of the training: its name, length, batch size, learning rate and bookkeeping.

    ``lr`` is the peak learning rate and ``floor`` the share of it at the end. ``ema`` is the decay of the weights'
    average; 0 keeps the last weights.
    """

    stage: str
    steps: int
    batch: int
    lr: float
    warmup: int = 100
    ema: float = 0.0
    weight_decay: float = 0.01
    floor: float = 0.02
    checkpoint_seconds: float = 120.0
    log_every: int = 50


def learning_rate(settings: StageSettings, step: int) -> float:
    """Linear warm-up, then cosine decay to ``floor`` times the peak."""
    if step < settings.warmup:
        return settings.lr * (step + 1) / settings.warmup
    progress = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return settings.lr * (settings.floor + (1 - settings.floor) * cosine)


def seeded(settings: StageSettings, seed: int, step: int) -> random.Random:
    """The random generator of one step; also seeds torch."""
    rng = random.Random(f"{settings.stage}/{seed}/{step}")
    torch.manual_seed(rng.getrandbits(63))
    return rng


def fit(
    settings: StageSettings,
    module: nn.Module,
    loss_fn: LossFn,
    seed: int,
    checkpoints: Path,
    log: Log = print,
    stop_after: int | None = None,
) -> nn.Module:
    """Train ``module`` in place and return the average of its weights (or itself, without an average).

    Args:
        loss_fn: (step, random generator) → the loss and the figures to log.
        checkpoints: folder for ``<stage>.pt``; an existing one is resumed.
        stop_after: end early at this step, as an interruption would (for tests).
    """
    state = _State(settings, module, checkpoints / f"{settings.stage}.pt")
    start = state.load()
    end = min(settings.steps, stop_after or settings.steps)
    progress = _Progress(settings, start, log)
    saved = time.monotonic()
    for step in range(start, end):
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate(settings, step)
        module.train()
        loss, metrics = loss_fn(step, seeded(settings, seed, step))
        state.update(loss)
        progress.add(step, metrics)
        if time.monotonic() - saved > settings.checkpoint_seconds:
            state.save(step + 1)
            saved = time.monotonic()
    if start < end:  # several processes may read a finished checkpoint
        state.save(end)
    state.best.eval()
    return state.best


class _State:
    """A module in training with its optimizer and the average of its weights, and their checkpoint file."""

    def __init__(self, settings: StageSettings, module: nn.Module, path: Path) -> None:
        self._module = module
        self._path = path
        self._average: AveragedModel | None = None
        if settings.ema:
            self._average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(settings.ema))
        self.optimizer = torch.optim.AdamW(
            module.parameters(), settings.lr, (0.9, 0.98), weight_decay=settings.weight_decay
        )

    @property
    def best(self) -> nn.Module:
        """The module to use: the average of the weights where there is one."""
        return self._module if self._average is None else self._average.module

    def update(self, loss: Tensor) -> None:
        """One step of the optimizer down the gradient of ``loss``."""
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self._module.parameters(), 1.0)
        self.optimizer.step()
        if self._average is not None:
            self._average.update_parameters(self._module)

    def load(self) -> int:
        """Read the checkpoint where there is one, and return the step to continue with."""
        if not self._path.exists():
            return 0
        state = torch.load(self._path, weights_only=True)
        self._module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        return int(state["step"])

    def save(self, step: int) -> None:
        """Write the checkpoint; a crash leaves the one before it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        state = {"module": self._module.state_dict(), "optimizer": self.optimizer.state_dict(), "step": step}
        if self._average is not None:
            state["average"] = self._average.state_dict()
        temporary = self._path.with_suffix(".tmp")
        torch.save(state, temporary)
        temporary.replace(self._path)


class _Progress:
    """Logs the means of the figures of every ``log_every`` steps."""

    def __init__(self, settings: StageSettings, start: int, log: Log) -> None:
        self._settings = settings
        self._start = start
        self._log = log
        self._began = time.monotonic()
        self._sums: dict[str, float] = {}

    def add(self, step: int, metrics: dict[str, float]) -> None:
        settings = self._settings
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        if (step + 1) % settings.log_every:
            return
        means = "  ".join(f"{name} {total / settings.log_every:.4f}" for name, total in self._sums.items())
        seconds = (time.monotonic() - self._began) / (step + 1 - self._start)
        pace = f"{1e3 * seconds / settings.batch:.1f} ms/sample"
        self._log(f"{settings.stage} {step + 1}/{settings.steps}  {means}  ({pace})")
        self._sums.clear()
