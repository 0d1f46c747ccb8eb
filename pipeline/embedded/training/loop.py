"""The training loop all stages share: AdamW, warm-up and cosine decay, EMA, checkpoints that resume exactly.

Randomness at step k depends on (stage, seed, k) alone, so a resumed run walks the same path as an unbroken one.
"""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Plan:
    """What one stage runs: its name, steps, batch size, peak learning rate and the decay of the weights' average."""

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


LossFn = Callable[[int, random.Random], tuple[Tensor, dict[str, float]]]


def learning_rate(plan: Plan, step: int) -> float:
    """Linear warm-up, then cosine decay to ``floor`` times the peak."""
    if step < plan.warmup:
        return plan.lr * (step + 1) / plan.warmup
    progress = (step - plan.warmup) / max(1, plan.steps - plan.warmup)
    return plan.lr * (plan.floor + (1 - plan.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def seeded(plan: Plan, seed: int, step: int) -> random.Random:
    """The generator of step ``step``; also seeds torch."""
    rng = random.Random(f"{plan.stage}/{seed}/{step}")
    torch.manual_seed(rng.getrandbits(63))
    return rng


def fit(
    plan: Plan,
    module: nn.Module,
    loss_fn: LossFn,
    seed: int,
    checkpoints: Path,
    log: Callable[[str], None] = print,
    on_checkpoint: Callable[[nn.Module], None] | None = None,
    stop_after: int | None = None,
) -> nn.Module:
    """Train ``module`` in place and return the average of its weights (or itself, without EMA).

    Args:
        checkpoints: folder for ``<stage>.pt``; an existing one is resumed.
        on_checkpoint: called with the averaged module whenever a checkpoint is written.
        stop_after: end early at this step, as an interruption would (for tests).
    """
    average = None
    if plan.ema:
        average = torch.optim.swa_utils.AveragedModel(
            module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(plan.ema)
        )
    optimizer = torch.optim.AdamW(module.parameters(), plan.lr, (0.9, 0.98), weight_decay=plan.weight_decay)
    path = checkpoints / f"{plan.stage}.pt"
    start = 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
        if average is not None:
            average.load_state_dict(state["average"])
    best = average.module if average is not None else module

    def save(step: int) -> None:
        checkpoints.mkdir(parents=True, exist_ok=True)
        state = {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
        if average is not None:
            state["average"] = average.state_dict()
        torch.save(state, path.with_suffix(".tmp"))
        os.replace(path.with_suffix(".tmp"), path)
        if on_checkpoint is not None:
            on_checkpoint(best)

    saved = began = time.monotonic()
    sums: dict[str, float] = {}
    for step in range(start, min(plan.steps, stop_after or plan.steps)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(plan, step)
        module.train()
        loss, metrics = loss_fn(step, seeded(plan, seed, step))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        if average is not None:
            average.update_parameters(module)
        for name, value in metrics.items():
            sums[name] = sums.get(name, 0.0) + value
        if (step + 1) % plan.log_every == 0:
            means = "  ".join(f"{k} {v / plan.log_every:.4f}" for k, v in sums.items())
            pace = (time.monotonic() - began) / (step + 1 - start)
            log(f"{plan.stage} {step + 1}/{plan.steps}  {means}  ({1e3 * pace / plan.batch:.1f} ms/sample)")
            sums.clear()
        if time.monotonic() - saved > plan.checkpoint_seconds:
            save(step + 1)
            saved = time.monotonic()
    save(min(plan.steps, stop_after or plan.steps))
    best.eval()
    return best
