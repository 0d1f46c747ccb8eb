"""A search that goes on in another row makes what the search would have made itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from noisesmith.pipeline.config import RunConfig, load_config
from noisesmith.pipeline.load import load_models
from noisesmith.pipeline.noise import digest, replay
from noisesmith.pipeline.prompts import open_corpus
from noisesmith.pipeline.records import Parent, Result, Row, with_index
from noisesmith.pipeline.search.loop import LoadedModels, search_rows
from tests.runs import write_config

ONE = {"batch_size": 1}
WALK = {"method": "noise_diffusion", "candidates": 4}


def config_of(folder: Path, sd: Path, llava: Path, rounds: int, **method: Any) -> RunConfig:
    path = write_config(folder, sd, llava, rows=2, generators=ONE, scorers=ONE)
    settings = load_config(path).model_dump(mode="json")
    return RunConfig.model_validate(settings | {"optimizer": {"rounds": rounds, **method}})


def going_on(earlier: Result, index: int) -> Row:
    """The row that continues the search of a finished one."""
    row = earlier.row
    parent = Parent(row.id, row.search_id, earlier.recipe, earlier.rounds)
    return replace(row, index=index, id=with_index(row.id, index), parent=parent)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_sd: Path, tiny_llava: Path) -> LoadedModels:
    folder = tmp_path_factory.mktemp("models")
    return load_models(config_of(folder, tiny_sd, tiny_llava, 1, **WALK), "cpu")


def test_best_of_n_goes_on_with_the_noises_that_it_would_have_drawn(
    tmp_path: Path, models: LoadedModels, tiny_sd: Path, tiny_llava: Path
) -> None:
    """Its rounds do not depend on each other, so the two halves of a search add up to the whole one."""
    short = config_of(tmp_path, tiny_sd, tiny_llava, 2, method="random_sampling")
    long = config_of(tmp_path, tiny_sd, tiny_llava, 4, method="random_sampling")
    rows = list(open_corpus(short).rows())
    halves = list(search_rows(rows, short, models))
    others = list(search_rows([going_on(half, 10 + n) for n, half in enumerate(halves)], long, models))
    for half, other, whole in zip(halves, others, search_rows(rows, long, models), strict=True):
        assert half.scores + other.scores[1:] == whole.scores
        assert other.rounds == whole.rounds == 4
        assert (other.score, other.image) == (whole.score, whole.image)
        assert other.recipe.digest == whole.recipe.digest


def test_a_walk_goes_on_from_the_kept_image(
    tmp_path: Path, models: LoadedModels, tiny_sd: Path, tiny_llava: Path
) -> None:
    short = config_of(tmp_path, tiny_sd, tiny_llava, 1, **WALK)
    long = config_of(tmp_path, tiny_sd, tiny_llava, 3, **WALK)
    rows = list(open_corpus(short).rows())
    first = list(search_rows(rows, short, models))
    second = list(search_rows([going_on(earlier, 10 + n) for n, earlier in enumerate(first)], long, models))
    for earlier, later in zip(first, second, strict=True):
        assert later.image_initial == earlier.image
        assert later.score_initial == earlier.score
        assert later.score >= earlier.score
        assert (later.rounds, len(later.scores)) == (3, 3)
        moves = len(earlier.recipe.rounds)
        assert later.recipe.rounds[:moves] == earlier.recipe.rounds
        assert set(later.recipe.rounds[moves:]) <= {2, 3}
        assert digest(replay(later.recipe, earlier.row.id)) == later.recipe.digest
