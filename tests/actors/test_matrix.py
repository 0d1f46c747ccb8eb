"""Generator families with scorer families: whole searches through the actors, on tiny models."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from PIL import Image

from noisesmith.actors.session import Session
from noisesmith.pipeline.config import RunConfig, load_config
from noisesmith.pipeline.config.optimizers import NoiseDiffusionConfig
from noisesmith.pipeline.generators import find_generator, load_decoder, load_generator
from noisesmith.pipeline.images import decode_png
from noisesmith.pipeline.noise import NoiseKey, digest, replay
from noisesmith.pipeline.preflight import find_models
from noisesmith.pipeline.prompts import open_corpus
from noisesmith.pipeline.records import Recipe
from noisesmith.pipeline.scorers import Group, Member, find_judge, find_scorer, load_judge, load_scorer
from noisesmith.pipeline.search.score import score_latents
from noisesmith.pipeline.sinks import read_rows, verify_run
from tests import tiny, tiny_families, tiny_generators, tiny_pipelines, tiny_scorers
from tests.runs import PROMPTS, write_config
from tests.sessions import drive, one_process_per_worker

pytestmark = pytest.mark.slow

GENERATORS = tiny_generators.FAMILIES
NEWER_SCORERS = ("qwen3_vl", "internvl", "gemma3", "hpsv2")
NEWER = {  # each with all of the newer scorers, and with one more
    "flux-dev": "llava_onevision",
    "flux2-klein": "smolvlm",
    "z-image": "paligemma2",
    "qwen-image": "siglip2",
    "sana": "llava_onevision",
    "pixart-sigma": "smolvlm",
    "lumina2": "paligemma2",
    "aura-flow": "qwen3_5",
}
JUDGE = "image_reward"
SCORERS: dict[str, Callable[[Path], Path]] = {
    "clip_flant5": tiny_scorers.clip_flant5,
    "llava": tiny.llava,
    "instructblip": lambda folder: tiny_scorers.instructblip(folder, decoder_only=False),
    "qwen_vl": tiny_families.qwen2_5_vl,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    builders = GENERATORS | SCORERS
    for generator in NEWER:
        builders[generator] = tiny_pipelines.EVERY[generator].build
    for scorer in (*NEWER_SCORERS, *NEWER.values(), JUDGE):
        builders[scorer] = tiny_families.SCORERS[scorer]
    return {name: build(folder / name) for name, build in builders.items()}


def _config(folder: Path, models: dict[str, Path], generator: str, scorer: str) -> RunConfig:
    if generator not in NEWER:
        options = {"scheduler": "flow_euler" if generator == "sd3" else "ddim"}
        return load_config(write_config(folder, models[generator], models[scorer], rows=2, generators=options))
    first, *others = (*NEWER_SCORERS, scorer)
    panel: list[dict[str, Any]] = [{"name": first, "model": str(models[first]), "batch_size": 2}]
    panel += [{"name": name, "model": str(models[name]), "shares": first} for name in others]
    more: dict[str, Any] = {
        "generators": {**tiny_pipelines.EVERY[generator].options, "height": 64, "width": 32},
        "scorers": panel,
        "judges": [{"name": JUDGE, "model": str(models[JUDGE])}],
    }
    return load_config(write_config(folder, models[generator], models[scorer], rows=2, **more))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, models: dict[str, Path]) -> Iterator[Session]:
    config = _config(tmp_path_factory.mktemp("any"), models, "sd1", "llava")
    with one_process_per_worker(config) as session:
        yield session


def _searched(config: RunConfig, ids: list[str]) -> list[list[list[float]]]:
    """Each scorer's log s of each of a row's images: the paper's algorithm in plain torch, in this process."""
    generator = load_generator(find_generator(config.generators), "cpu")
    panel = Group(tuple(Member(load_scorer(find_scorer(member), "cpu")) for member in config.panel))
    decoder = load_decoder(find_generator(config.generators), "cpu")
    assert isinstance(config.optimizer, NoiseDiffusionConfig)
    shape, rounds = generator.spec.shape, config.optimizer.rounds
    noise = torch.stack([NoiseKey(config.seed, row, 0).draw(0, shape) for row in ids])
    log_scores: list[list[list[float]]] = [[] for _ in ids]
    for round_ in range(1 + rounds):
        z_0 = generator.sample(PROMPTS[:2], noise, config.generators.steps)
        shown = score_latents(decoder, panel, PROMPTS[:2], z_0, gradient=round_ < rounds)
        for place, of_panel in enumerate(shown.log_scores.T.tolist()):
            log_scores[place].append(of_panel)
            if shown.log_gradients is None:
                continue
            gamma, key = 1 - math.sqrt(math.exp(fmean(of_panel))), NoiseKey(config.seed, ids[place], round_ + 1)
            drawn = torch.stack([key.draw(index, shape) for index in range(config.optimizer.candidates)])
            moves = ((math.sqrt(1 - gamma) - 1) * noise[place] + math.sqrt(gamma) * drawn).flatten(1)
            slope = generator.pull_back(shown.log_gradients[place], config.generators.steps)
            best = ((moves @ slope.flatten()) / moves.square().sum(1)).argmax()
            noise[place] = math.sqrt(1 - gamma) * noise[place] + math.sqrt(gamma) * drawn[best]
    return log_scores


@pytest.mark.parametrize(("generator", "scorer"), [*product(GENERATORS, SCORERS), *NEWER.items()])
def test_the_actors_search_and_write_what_the_algorithm_says(
    tmp_path: Path, runs: Session, models: dict[str, Path], generator: str, scorer: str
) -> None:
    """A newer generator has a panel of the newer scorers, and another one as the judge."""
    config = _config(tmp_path, models, generator, scorer)
    found, corpus = find_models(config), open_corpus(config)
    drive(runs, config)
    assert verify_run(config.run_dir) == []
    rows = list(read_rows(config.run_dir))
    assert [row["id"] for row in rows] == [row.id for row in corpus.rows()]
    for row, log_scores in zip(rows, _searched(config, [row["id"] for row in rows]), strict=True):
        combined = [math.exp(fmean(of_panel)) for of_panel in log_scores]
        assert all(0 < score < 1 for score in row["scores"])
        assert row["scores"] == pytest.approx(combined, rel=1e-6)
        assert row["score"] == max(row["scores"])
        assert Image.open(io.BytesIO(row["image"])).size == (found.generator.spec.width, found.generator.spec.height)
        assert digest(replay(Recipe.from_row(row["recipe"]), row["id"])) == row["recipe"]["digest"]
        assert row["generator_revision"] == found.generator.source.resolved_revision()
        if generator in NEWER:
            _check_panel_and_judge(config, row, log_scores)
        else:
            assert row["scorer_revision"] == found.scorers[0].source.resolved_revision()


def _check_panel_and_judge(config: RunConfig, row: dict[str, Any], log_scores: list[list[float]]) -> None:
    kept = row["scores"].index(row["score"])
    for place, member in enumerate(config.panel):
        assert row[f"score_{member.name}_initial"] == pytest.approx(math.exp(log_scores[0][place]), rel=1e-6)
        assert row[f"score_{member.name}"] == pytest.approx(math.exp(log_scores[kept][place]), rel=1e-6)
    judge = load_judge(find_judge(config.judges[0], config.panel[0]), "cpu")
    (verdict,) = judge.judge([row["prompt"]], decode_png(row["image"])[None])
    assert row[f"judge_{JUDGE}"] == pytest.approx(verdict, rel=1e-6)
