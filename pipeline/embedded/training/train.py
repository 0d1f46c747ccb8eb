"""Train the built-in models: ``noisesmith embedded train --out DIR``.

Training goes on from the models of version 1, where there are such, and begins from scratch with the others. A finished
or interrupted stage continues from its checkpoint, so that stages can be trained in several processes at once.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

from diffusers import AutoencoderKL, StableDiffusionPipeline
from transformers import LlavaForConditionalGeneration, PreTrainedModel

from noisesmith.pipeline.embedded import weights
from noisesmith.pipeline.embedded.judge import Judge
from noisesmith.pipeline.embedded.training import decoder as decoder_stage
from noisesmith.pipeline.embedded.training import guided as guided_stage
from noisesmith.pipeline.embedded.training import judge as judge_stage
from noisesmith.pipeline.embedded.training import pool as pools
from noisesmith.pipeline.embedded.training import refine
from noisesmith.pipeline.embedded.training import sd as sd_stage
from noisesmith.pipeline.embedded.training import spin as spin_stage
from noisesmith.pipeline.embedded.training import vae as vae_stage
from noisesmith.pipeline.embedded.training import vlm as vlm_stage
from noisesmith.pipeline.embedded.training.architectures import save_judge, save_sd, save_vlm
from noisesmith.pipeline.embedded.training.loop import Log, StageSettings
from noisesmith.pipeline.embedded.training.pool import Pool
from noisesmith.pipeline.embedded.training.qwen import save_qwen

SCORERS = ("vlm", "qwen")
STAGES = (
    "vae",
    "sd",
    "spin",
    "guided",
    "clear",
    "decoder",
    "judge",
    "detector",
    *SCORERS,
    "painted",
    "vlm-2",
    "qwen-2",
    "searched",
    "vlm-3",
    "qwen-3",
)


def say(line: str) -> None:
    """Print one line without buffering, so that a log file shows the progress."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def train(
    out: Path,
    checkpoints: Path,
    seed: int = 1,
    scale: float = 1.0,
    stages: Sequence[str] = STAGES,
    log: Log = say,
) -> None:
    """Train stages in order and write their models below ``out``.

    Args:
        scale: multiplies every stage's steps, and below 1 its scenes too, for a trial of the whole chain.
        stages: which to train; what they need of others is read from finished checkpoints.

    Raises:
        ValueError: there is no such stage.
        FileNotFoundError: a stage that is needed and not trained has no checkpoint.
    """
    unknown = set(stages) - set(STAGES)
    if unknown:
        raise ValueError(f"no stage {sorted(unknown)[0]!r}: choose from {', '.join(STAGES)}")
    training = Training(out, checkpoints, seed, scale, stages, log)
    for stage in STAGES:
        if stage in stages:
            training.make(stage)


class Training:
    """The models of one training, each made (or read from its checkpoint) when it is first asked for."""

    def __init__(self, out: Path, checkpoints: Path, seed: int, scale: float, stages: Sequence[str], log: Log) -> None:
        self._out = out
        self._checkpoints = checkpoints
        self._seed = seed
        self._scale = scale
        self._stages = stages
        self._log = log
        self._scorers: dict[tuple[str, int], PreTrainedModel] = {}

    @cached_property
    def _first(self) -> StableDiffusionPipeline:
        """The diffusion model of version 1."""
        return StableDiffusionPipeline.from_pretrained(weights("v1/sd"))

    @cached_property
    def vae(self) -> AutoencoderKL:
        """The autoencoder that the diffusion model learns with, frozen."""
        vae = vae_stage.train(
            self._seed, self._checkpoints, self._first.vae, self._settings(vae_stage.SETTINGS), self._log
        )
        vae.requires_grad_(False)
        vae.register_to_config(scaling_factor=vae_stage.scaling_factor(vae, self._seed))
        return vae

    @cached_property
    def sd(self) -> sd_stage.Painter:
        """The diffusion model."""
        scenes = max(100, round(sd_stage.SCENES * min(1.0, self._scale)))
        painter = sd_stage.Painter.of(self._first)
        for base in (sd_stage.SETTINGS, sd_stage.WHITE_SETTINGS):
            settings = self._settings(base)
            painter = sd_stage.train(self._seed, self._checkpoints, self.vae, painter, settings, self._log, scenes)
        save_sd(self._out / "sd", self.vae, painter.unet, painter.text)
        return painter

    @cached_property
    def spin(self) -> sd_stage.Painter:
        """The diffusion model after self-play."""
        base = spin_stage.SETTINGS
        settings = self._settings(base, spin_stage.settings_of(spin_stage.ROUNDS - 1, base, spin_stage.ROUNDS).stage)
        prompts = max(20, round(spin_stage.PROMPTS * min(1.0, self._scale)))
        painter = spin_stage.train(self._seed, self._checkpoints, self.vae, self.sd, settings, self._log, prompts)
        save_sd(self._out / "sd", self.vae, painter.unet, painter.text)
        return painter

    @cached_property
    def guided(self) -> sd_stage.Painter:
        """The diffusion model after guidance distillation."""
        return self._distilled(guided_stage.SETTINGS, lambda: self.spin)

    @cached_property
    def clear(self) -> sd_stage.Painter:
        """The diffusion model after a second distillation, of what was still unclear."""
        return self._distilled(guided_stage.CLEAR_SETTINGS, lambda: self.guided)

    def _distilled(self, base: StageSettings, before: Callable[[], sd_stage.Painter]) -> sd_stage.Painter:
        """The diffusion model after a stage of ``guided.py``, which goes on from what ``before`` gives."""
        settings = self._settings(base)
        count = max(20, round(guided_stage.PICTURES[base.stage] * min(1.0, self._scale)))
        painter = guided_stage.train(self._seed, self._checkpoints, self.vae, before(), settings, self._log, count)
        save_sd(self._out / "sd", self.vae, painter.unet, painter.text)
        return painter

    @cached_property
    def decoder(self) -> AutoencoderKL:
        """The autoencoder with the last decoder, frozen. With it the diffusion model is the one that is used."""
        painter = self.clear
        settings = self._settings(decoder_stage.SETTINGS)
        vae = decoder_stage.train(self._seed, self._checkpoints, self.vae, painter, settings, self._log)
        save_sd(self._out / "sd", vae, painter.unet, painter.text)
        return vae

    @cached_property
    def judge(self) -> Judge:
        """The judge of record."""
        begin = Judge.from_pretrained(weights("v1/judge"))
        settings = self._settings(judge_stage.SETTINGS)
        judge = judge_stage.train(self._seed, self._checkpoints, self.decoder, self.clear, begin, settings, self._log)
        save_judge(self._out / "judge", judge)
        return judge

    @cached_property
    def detector(self) -> Judge:
        """The second detector, which labels what the scorers learn from."""
        settings = self._settings(judge_stage.DETECTOR_SETTINGS)
        detector = judge_stage.train(self._seed, self._checkpoints, self.decoder, self.clear, None, settings, self._log)
        save_judge(self._out / "detector", detector)
        return detector

    def make(self, stage: str) -> None:
        """Train one stage to its end."""
        name, _, turn = stage.partition("-")
        if name in SCORERS:
            self.scorer(name, int(turn or 1))
        else:
            getattr(self, stage)

    def scorer(self, name: str, turn: int) -> PreTrainedModel:
        """One of the two scorers after ``turn`` 1 (renders), 2 (with generated pictures) or 3 (with searches too)."""
        if (name, turn) in self._scorers:
            return self._scorers[name, turn]
        if turn == 1:
            begin = LlavaForConditionalGeneration.from_pretrained(weights("v1/vlm")) if name == "vlm" else None
            settings = self._settings(vlm_stage.SETTINGS if name == "vlm" else vlm_stage.QWEN_SETTINGS)
            scorer = vlm_stage.train(self._seed, self._checkpoints, self.vae, begin, settings, self._log)
        else:
            settings = self._settings(refine.settings_of(name, turn))
            pool = self._pool(turn) if settings.steps else None
            begin = self.scorer(name, turn - 1)
            scorer = refine.train(self._seed, self._checkpoints, self.decoder, pool, begin, settings, self._log)
        save = save_vlm if name == "vlm" else save_qwen
        save(self._out / name, scorer)
        self._scorers[name, turn] = scorer
        return scorer

    def _pool(self, turn: int) -> Pool:
        files = [self.painted] if turn == 2 else [self.painted, self.searched]
        pool = Pool.read(files, self.detector)
        self._log(f"{len(pool.images)} generated pictures that the detector is sure about")
        return pool

    @cached_property
    def painted(self) -> Path:
        """The file with pictures of random noise."""
        path = self._checkpoints / "painted.pt"
        if not path.exists():
            self._made("painted")
            _ = self.decoder
            count = max(2 * pools.BATCH, round(pools.PAINTED * min(1.0, self._scale)))
            pools.paint(self._out / "sd", self._seed, path, count)
        return path

    @cached_property
    def searched(self) -> Path:
        """The file with the pictures that searches with both scorers come across."""
        path = self._checkpoints / "searched.pt"
        if not path.exists():
            self._made("searched")
            _ = self.decoder
            for name in SCORERS:
                self.scorer(name, 2)
            count = max(4, round(pools.SEARCHED * min(1.0, self._scale)))
            pools.search(self._out / "sd", [self._out / name for name in SCORERS], self._seed, path, count)
        return path

    def _made(self, stage: str) -> None:
        if stage not in self._stages:
            raise FileNotFoundError(f"stage {stage} has no file in {self._checkpoints}: make it first")

    def _settings(self, base: StageSettings, last: str = "") -> StageSettings:
        """The stage's settings; without steps where it is not to be trained and its (last) checkpoint is there."""
        if base.stage.removesuffix("-white") in self._stages:
            steps = max(1, round(base.steps * self._scale))
            return dataclasses.replace(base, steps=steps, warmup=min(base.warmup, steps))
        if not (self._checkpoints / f"{last or base.stage}.pt").exists():
            raise FileNotFoundError(f"stage {base.stage} has no checkpoint in {self._checkpoints}: train it first")
        return dataclasses.replace(base, steps=0)
