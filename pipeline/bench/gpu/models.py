"""Loads the models of a pair by the product's own loaders: with their own weights, or with random ones."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch

from noisesmith.pipeline.bench.gpu.architectures import PIPELINES, SCORERS
from noisesmith.pipeline.bench.gpu.cells import Pair
from noisesmith.pipeline.bench.gpu.folders import write_pipeline, write_reader, write_scorer
from noisesmith.pipeline.bench.gpu.weights import blank_pipeline, blank_scorer, randomise
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.generators.adapter import Adapter
from noisesmith.pipeline.load import load_models
from noisesmith.pipeline.models.libraries import Model
from noisesmith.pipeline.preflight import find_models
from noisesmith.pipeline.scorers.loaded import LoadedScorer
from noisesmith.pipeline.search.loop import LoadedModels


class PairModels:
    """The models of pairs. Folders of those with random weights are made below ``root`` when they are first needed."""

    def __init__(self, root: Path, device: str) -> None:
        self._root = root
        self._device = device
        self._made: set[str] = set()

    def config(self, pair: Pair, batch: int) -> RunConfig:
        """The config of a pair that names its models where they are."""
        folders = {}
        if pair.random_weights:
            names = (pair.generators["model"], pair.scorers["model"])
            folders = {name: str(self._folder(name)) for name in names}
        return pair.config(batch, folders)

    def load(self, pair: Pair) -> LoadedModels:
        """The models of a pair on the device.

        Raises:
            UserError: one cannot be loaded.
        """
        config = self.config(pair, max(pair.batches))
        if pair.random_weights:
            self._make(pair, config)
        models = load_models(config, self._device)
        if pair.random_weights:
            for seed, model in enumerate(_networks(models)):
                randomise(model, seed)
        return models

    def _make(self, pair: Pair, config: RunConfig) -> None:
        """Make the folders of a pair's models that are not there yet."""
        generator, scorer = pair.generators["model"], pair.scorers["model"]
        if generator not in self._made:
            write_pipeline(PIPELINES[generator], self._folder(generator))
        if scorer not in self._made:
            write_scorer(SCORERS[scorer], self._folder(scorer))
            write_reader(SCORERS[scorer], self._folder(scorer))
        found = find_models(config)
        if generator not in self._made:
            blank_pipeline(found.generator)
        if scorer not in self._made:
            blank_scorer(found.scorers[0])
        self._made |= {generator, scorer}

    def _folder(self, model: str) -> Path:
        return self._root / model.replace("/", "--")


def _networks(models: LoadedModels) -> list[Model]:
    """Every network that is loaded, the decoder's VAE next to the pipeline's own."""
    assert isinstance(models.generator, Adapter)  # what load_models loads
    parts = models.generator.pipe.components.values()
    networks = [cast(Model, part) for part in parts if isinstance(part, torch.nn.Module)]
    scorers = [cast(LoadedScorer, member.scorer) for group in models.groups for member in group.members]
    return [*networks, models.decoder.vae, *(scorer.model for scorer in scorers)]
