"""The whole search on the GPU: the same moves and scores as on the CPU, and alone or next to another process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from noisesmith.pipeline.config import METHODS, RunConfig
from tests.gpu.conftest import Folders
from tests.gpu.search import search, tiny_config

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).parents[2]
PROCESSES = 2
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def method_config(method: str, folders: Folders) -> RunConfig:
    optimizer: dict[str, Any] = {"method": method, "rounds": 0 if method == "none" else 2}
    if method in ("initno", "attend_and_excite"):
        optimizer["attention_size"] = 4
    if method == "initno":
        optimizer |= {"steps": 2, "restarts": 2}
    return tiny_config(str(folders["sd1"]), str(folders["llava"]), optimizer)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_what_it_finds_on_the_cpu(method: str, device: str, folders: Folders) -> None:
    config = method_config(method, folders)
    expected = search(config, "cpu")
    found = search(config, device)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.scores == pytest.approx(theirs.scores, abs=1e-3)
        assert ours.recipe.rounds == theirs.recipe.rounds
        assert ours.recipe.indices == theirs.recipe.indices
        assert ours.recipe.gammas == pytest.approx(theirs.recipe.gammas, rel=1e-3)


@pytest.mark.parametrize("method", ["initno", "attend_and_excite"])
def test_methods_that_read_attention_find_the_same_with_an_offloaded_model(
    method: str, device: str, folders: Folders
) -> None:
    """Row by row: after the first batch, all parts of the model are back in the host's memory."""
    config = method_config(method, folders)
    offloaded, plain = (
        config.model_copy(update={"generators": config.generators.model_copy(update={"batch_size": 1, **options})})
        for options in ({"cpu_offload": True, "num_gpus": 1}, {})
    )
    for ours, theirs in zip(search(offloaded, device), search(plain, device), strict=True):
        assert ours.scores == pytest.approx(theirs.scores, abs=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_built_in_models_search_in_half_precision(dtype: str, device: str) -> None:
    """Trained models, as a user has them; only the first image is comparable, since a move may fall otherwise."""
    prompts = ["a red cat and a blue dog", "a green car under a yellow bowl"]
    generators = {"model": "embedded", "steps": 8, "guidance_scale": 1.2, "batch_size": 2}
    whole, half = (
        RunConfig.model_validate(
            {
                "generators": generators | {"dtype": one},
                "scorers": {"model": "embedded", "dtype": one},
                "optimizer": {"method": "noise_diffusion", "rounds": 2, "candidates": 4},
                "judges": [{"name": "detector", "model": "embedded/judge"}],
            }
        )
        for one in ("float32", dtype)
    )
    expected = search(whole, "cpu", prompts)
    found = search(half, device, prompts)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.scores[0] == pytest.approx(theirs.scores[0], abs=0.2)
        assert ours.score >= ours.scores[0]
        assert len(ours.scores) == len(theirs.scores)


def test_two_processes_share_one_gpu(device: str, folders: Folders) -> None:
    sd, llava = str(folders["sd1"]), str(folders["llava"])
    alone = search(tiny_config(sd, llava), device)
    command = [sys.executable, "-m", "tests.gpu.search", sd, llava, device]
    processes = [
        subprocess.Popen(command, cwd=ROOT, env=ONE_THREAD, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(PROCESSES)
    ]
    for process in processes:
        output, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
        for ours, theirs in zip(json.loads(output.splitlines()[-1]), alone, strict=True):
            assert ours["scores"] == pytest.approx(theirs.scores, abs=1e-3)
            assert tuple(ours["indices"]) == theirs.recipe.indices


def test_the_first_noises_do_not_depend_on_the_device(device: str, folders: Folders) -> None:
    """They are drawn on the CPU from the row's seed, so that a recipe means the same on every machine."""
    config = method_config("none", folders)
    torch.manual_seed(1)
    expected = search(config, "cpu")
    torch.manual_seed(2)
    found = search(config, device)
    assert [result.recipe.digest for result in found] == [result.recipe.digest for result in expected]
