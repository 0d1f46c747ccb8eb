"""Train the built-in models from scratch: ``noisesmith embedded train --out DIR``.

Stages, in order: vae, judge, vlm, sd, refine (the scorer on the diffusion model's own pictures, labelled by the
judge). A finished or interrupted stage continues from its checkpoint.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from diffusers import AutoencoderKL

from noisesmith.pipeline.embedded.training import judge as judge_stage
from noisesmith.pipeline.embedded.training import refine as refine_stage
from noisesmith.pipeline.embedded.training import sd as sd_stage
from noisesmith.pipeline.embedded.training import vae as vae_stage
from noisesmith.pipeline.embedded.training import vlm as vlm_stage
from noisesmith.pipeline.embedded.training.architectures import save_judge, save_sd, save_vlm
from noisesmith.pipeline.embedded.training.loop import Log, StageSettings

STAGES = ("vae", "judge", "vlm", "sd", "refine")


def say(line: str) -> None:
    """Print one line without buffering, so that a log file shows the progress."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def train(
    out: Path,
    checkpoints: Path,
    seed: int = 0,
    scale: float = 1.0,
    stages: Sequence[str] = STAGES,
    log: Log = say,
) -> None:
    """Train all stages in order and write ``sd``, ``vlm`` and ``judge`` below ``out``.

    Args:
        scale: multiplies every stage's steps, and below 1 its scenes and samples too, for a trial of the whole chain.
        stages: which to train; the others are read from their finished checkpoints.

    Raises:
        ValueError: there is no such stage.
        FileNotFoundError: a stage that is not trained has no checkpoint.
    """
    unknown = set(stages) - set(STAGES)
    if unknown:
        raise ValueError(f"no stage {sorted(unknown)[0]!r}: choose from {', '.join(STAGES)}")

    def settings(base: StageSettings) -> StageSettings:
        if base.stage in stages:
            steps = max(1, round(base.steps * scale))
            return dataclasses.replace(base, steps=steps, warmup=min(base.warmup, steps))
        if not (checkpoints / f"{base.stage}.pt").exists():
            raise FileNotFoundError(f"stage {base.stage} has no checkpoint in {checkpoints}: train it first")
        return dataclasses.replace(base, steps=0)

    share = min(1.0, scale)
    vae: AutoencoderKL = vae_stage.train(seed, checkpoints, settings(vae_stage.SETTINGS), log).requires_grad_(False)
    vae_stage.whiten(vae, seed)
    vae.register_to_config(scaling_factor=vae_stage.scaling_factor(vae, seed))
    judge = judge_stage.train(seed, checkpoints, vae, settings(judge_stage.SETTINGS), log)
    save_judge(out / "judge", judge)
    vlm = vlm_stage.train(seed, checkpoints, vae, settings(vlm_stage.SETTINGS), log)
    save_vlm(out / "vlm", vlm)
    scenes = max(100, round(sd_stage.SCENES * share))
    painter = sd_stage.train(seed, checkpoints, vae, settings(sd_stage.SETTINGS), log, scenes)
    save_sd(out / "sd", vae, painter.unet, painter.text)
    samples = max(100, round(refine_stage.SAMPLES * share))
    vlm = refine_stage.train(
        seed, checkpoints, vae, judge, out / "sd", vlm, settings(refine_stage.SETTINGS), log, samples
    )
    save_vlm(out / "vlm", vlm)
