"""Rebuild the built-in models: ``noisesmith embedded train --out DIR``.

Stages, in order: vae, judge, vlm, sd, refine (the scorer on the diffusion model's own pictures, labelled by the
judge). A finished or interrupted stage is picked up from its checkpoint.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from diffusers import AutoencoderKL

from noisesmith.pipeline.embedded.models import save_judge, save_sd, save_vlm
from noisesmith.pipeline.embedded.training import judge as judge_stage
from noisesmith.pipeline.embedded.training import refine as refine_stage
from noisesmith.pipeline.embedded.training import sd as sd_stage
from noisesmith.pipeline.embedded.training import vae as vae_stage
from noisesmith.pipeline.embedded.training import vlm as vlm_stage
from noisesmith.pipeline.embedded.training.loop import Plan

STAGES = ("vae", "judge", "vlm", "sd", "refine")


def say(line: str) -> None:
    """One line to standard output, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def train(
    out: Path,
    checkpoints: Path,
    seed: int = 0,
    scale: float = 1.0,
    stages: Sequence[str] = STAGES,
    log: Callable[[str], None] = say,
) -> None:
    """Train all stages in order and write ``sd``, ``vlm`` and ``judge`` below ``out``.

    Args:
        scale: multiplies every stage's steps, and below 1 its scenes and samples too, for a trial of the whole chain.
        stages: which to train; the others are read from their finished checkpoints.
    """
    unknown = set(stages) - set(STAGES)
    if unknown:
        raise ValueError(f"no stage {sorted(unknown)[0]!r}: choose from {', '.join(STAGES)}")

    def plan(base: Plan) -> Plan:
        if base.stage in stages:
            steps = max(1, round(base.steps * scale))
            return dataclasses.replace(base, steps=steps, warmup=min(base.warmup, steps))
        if not (checkpoints / f"{base.stage}.pt").exists():
            raise FileNotFoundError(f"stage {base.stage} has no checkpoint in {checkpoints}: train it first")
        return dataclasses.replace(base, steps=0)

    vae: AutoencoderKL = vae_stage.train(seed, checkpoints, plan(vae_stage.PLAN), log).requires_grad_(False)
    vae_stage.whiten(vae, seed)
    vae.register_to_config(scaling_factor=vae_stage.scaling_factor(vae, seed))
    judge = judge_stage.train(seed, checkpoints, vae, plan(judge_stage.PLAN), log)
    save_judge(out / "judge", judge)
    vlm = vlm_stage.train(seed, checkpoints, vae, plan(vlm_stage.PLAN), log)
    save_vlm(out / "vlm", vlm)
    share = min(1.0, scale)
    scenes = max(100, round(sd_stage.SCENES * share))
    painter = sd_stage.train(seed, checkpoints, vae, plan(sd_stage.PLAN), log, scenes)
    save_sd(out / "sd", vae, painter.unet, painter.text)
    samples = max(100, round(refine_stage.SAMPLES * share))
    vlm = refine_stage.train(seed, checkpoints, vae, judge, out / "sd", vlm, plan(refine_stage.PLAN), log, samples)
    save_vlm(out / "vlm", vlm)
