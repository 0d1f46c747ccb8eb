"""A checked comparison of trainings: the run whose images are trained on, the prompts to evaluate, the arms."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from noisesmith.pipeline.acceptance import check_config
from noisesmith.pipeline.bench.design import Design, make_design
from noisesmith.pipeline.bench.kinds import Variant
from noisesmith.pipeline.bench.started import check_started
from noisesmith.pipeline.bench.training.arms import ARMS, REFERENCE, Arm
from noisesmith.pipeline.bench.training.denoiser import DENOISERS
from noisesmith.pipeline.bench.training.held_out import held_out_rows
from noisesmith.pipeline.bench.training.options import TRAINING, TrainingOptions
from noisesmith.pipeline.bench.training.selection import check_selection
from noisesmith.pipeline.config import AcceptConfig, GeneratorConfig, RunConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.generators import FoundGenerator
from noisesmith.pipeline.records import Row


@dataclass(frozen=True)
class Training:
    """One arm with one seed: one file of results."""

    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        return f"{self.arm.label}-seed{self.seed}"


@dataclass(frozen=True)
class TrainingDesign:
    """A checked comparison.

    ``data`` is the comparison of one run that makes the images to train on. ``held_out`` are the prompts to evaluate.
    Trainings run seed by seed, so that those of the first seeds are a comparison too; the untouched model needs one
    only, since no seed changes it.
    """

    data: Design
    options: TrainingOptions
    rule: AcceptConfig
    held_out: tuple[Row, ...]
    seeds: int

    @property
    def out(self) -> Path:
        return self.data.out

    @property
    def config(self) -> RunConfig:
        """That of the run whose images are trained on."""
        return self.data.settings

    @property
    def trainings(self) -> tuple[Training, ...]:
        found = []
        for seed in range(self.seeds):
            for arm in ARMS:
                if arm.label != REFERENCE or seed == 0:
                    found.append(Training(arm, seed))
        return tuple(found)

    def results_of(self, training: Training) -> Path:
        """The file with the results of one training."""
        return self.out / "arms" / f"{training.name}.json"

    def settings(self) -> dict[str, object]:
        """What decides the results, but for the seeds: two comparisons with equal settings are one."""
        prompts = [row.prompt for row in self.held_out]
        models = self.data.models
        revisions = {"generator": models.generator.revision}
        for judge, found in zip(self.config.judges, models.judges, strict=True):
            revisions[f"judge {judge.name}"] = found.revision
        return {
            "run": self.config.digest(),
            "accept": self.rule.model_dump(mode="json"),
            **asdict(self.options),
            "held_out_prompts": hashlib.sha256(json.dumps(prompts).encode()).hexdigest(),
            "models": revisions,
        }


def make_training(
    base: RunConfig, out: Path, options: TrainingOptions, *, prompts: int | None, seeds: int
) -> TrainingDesign:
    """Check a comparison of trainings. No model is loaded; nothing is written.

    Args:
        base: the config of the run that makes the images; its ``accept`` selects.
        prompts: how many the run searches, in equal shares from the sources; as many as ``base`` says when absent.
        seeds: trainings per arm.

    Raises:
        UserError: something cannot be used; the message names the field or option.
    """
    rule = check_selection(base)
    if any(section.resolution for section in base.corpus):
        raise UserError(
            "corpus.resolution: trainings are compared on images of one size; remove it, and generators.buckets with it"
        )
    # The run keeps first images, and as Parquet all that is needed.
    output = base.output.model_copy(update={"image_initial": True, "formats": ("parquet",), "tar_image_initial": None})
    base = base.model_copy(update={"output": output})
    variant = Variant("data", {"optimizer": base.optimizer.model_dump(mode="json", exclude_none=True)}, "")
    rounds = max(1, base.optimizer.rounds)
    data = make_design(base, [variant], out, prompts=prompts, rounds=rounds, seeds=1, kind=TRAINING)
    if seeds < 1:
        raise UserError(f"--seeds: must be at least 1, but it is {seeds}")
    check_config(data.settings)
    check_trainable(data.settings.generators, data.models.generator)
    trained = [row.prompt for row in data.corpus.rows()]
    held_out = held_out_rows(data.settings, trained, options.held_out)
    design = TrainingDesign(data, options, rule, held_out, seeds)
    check_started(design.out, design.settings())
    return design


def check_trainable(config: GeneratorConfig, found: FoundGenerator) -> None:
    """Refuse a generator that this comparison cannot train.

    Raises:
        UserError: names the field.
    """
    if config.dtype != "float32":
        raise UserError(
            f"generators.dtype: {config.dtype} weights round the small changes of training away; use float32"
        )
    if found.family.pipeline_class not in DENOISERS:
        raise UserError(
            f"generators.model: {found.source.id!r} is loaded by {found.family.pipeline_class}, which this comparison "
            "cannot train; give a Stable Diffusion 1, 2, XL or 3"
        )
    for field in ("cpu_offload", "compile"):
        if getattr(config, field):
            raise UserError(f"generators.{field}: cannot be used while the model is trained; set it to false")
    name = found.family.denoiser
    settings = found.source.read_json(f"{name}/config.json") if not found.source.file else {}
    if settings.get("time_cond_proj_dim") is not None:
        raise UserError(
            f"generators.model: {found.source.id!r} has its guidance distilled into it, which plain training would "
            "undo; give a model that is not distilled"
        )
