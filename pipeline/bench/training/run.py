"""Trains and evaluates every arm that has no results yet."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from noisesmith.pipeline.bench.started import begin
from noisesmith.pipeline.bench.training.data import Exports, Note, examples_of, write_exports
from noisesmith.pipeline.bench.training.denoiser import Denoiser, denoiser_of
from noisesmith.pipeline.bench.training.design import Training, TrainingDesign
from noisesmith.pipeline.bench.training.evaluate import evaluate
from noisesmith.pipeline.bench.training.loop import encoded, fit
from noisesmith.pipeline.bench.training.results import Results, write_results
from noisesmith.pipeline.export.select import Progress
from noisesmith.pipeline.generators.adapter import Adapter
from noisesmith.pipeline.load import load_models
from noisesmith.pipeline.models.runtime import device_for, threads_for
from noisesmith.pipeline.search.loop import LoadedModels


def unfinished_arms(design: TrainingDesign) -> list[Training]:
    """The trainings without results."""
    return [training for training in design.trainings if not design.results_of(training).is_file()]


def train_arms(design: TrainingDesign, progress: Progress, note: Note) -> None:
    """Train and evaluate what has no results; the run whose images are trained on is finished.

    Each training starts from the model's own weights, and its results are one file, so a killed command goes on with
    the training that it was at.

    Args:
        progress: given a number, yields ``advance(count)``; shows optimizer steps and images that were made.

    Raises:
        UserError: an arm has too few pictures, or a model cannot be loaded.
        RunError: a training has diverged.
    """
    begin(design.out, design.settings())
    exports = write_exports(design, progress, note)
    left = unfinished_arms(design)
    if not left:
        return
    note(f"every arm is trained on {exports.count} pictures, {design.options.batch_size} per step")
    trainer = Trainer(design, exports)
    for number, training in enumerate(left, 1):
        note(f"{training.name} ({number} of {len(left)})")
        results = trainer.run(training, progress)
        write_results(design.results_of(training), results)


class Trainer:
    """The loaded models of a comparison, and the weights that every training starts from."""

    def __init__(self, design: TrainingDesign, exports: Exports) -> None:
        self._design = design
        self._exports = exports
        torch.set_num_threads(threads_for(design.config.generators.num_cpus))
        self._models: LoadedModels = load_models(design.config, device_for(design.config.generators.num_gpus))
        generator = self._models.generator
        assert isinstance(generator, Adapter)  # what load_models loads
        self._generator = generator
        self._denoiser: Denoiser = denoiser_of(generator)
        self._original: dict[str, Tensor] = {}
        for name, weight in self._denoiser.network.state_dict().items():
            self._original[name] = weight.detach().cpu().clone()

    def run(self, training: Training, progress: Progress) -> Results:
        """Train one arm from the original weights, and evaluate it."""
        design = self._design
        options = design.options
        arm = training.arm
        began = time.monotonic()
        self._denoiser.network.load_state_dict(self._original)
        losses: list[float] = []
        if arm.pictures is not None:
            examples = encoded(examples_of(arm, self._exports), self._generator, self._models.decoder)
            with progress(options.steps) as advance:
                losses = fit(self._denoiser, examples, options, training.seed + arm.seed_offset, advance)
        with progress(len(design.held_out) * options.images) as advance:
            prompts = evaluate(design.held_out, options.images, design.config, self._generator, self._models, advance)
        trained = arm.pictures is not None
        return Results(
            arm=arm.label,
            seed=training.seed,
            steps=len(losses),
            pictures_per_step=options.batch_size if trained else 0,
            pictures=self._exports.count if trained else 0,
            losses=losses,
            seconds=time.monotonic() - began,
            prompts=prompts,
        )
