"""The configs that ship, and what may change between a run and its resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from noisesmith.pipeline.config import RunConfig, dump_config, load_config
from noisesmith.pipeline.config.optimizers import NoiseDiffusionConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.generators import find_generator
from noisesmith.pipeline.prompts import open_corpus

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
PLAIN = {"corpus": {"source": "embedded/simple", "size": 3}}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_config_is_valid_and_reads_back(path: Path) -> None:
    config = load_config(path)
    assert RunConfig.model_validate(yaml.safe_load(dump_config(config))) == config


def test_the_papers_values_are_one_config() -> None:
    config = load_config(next(path for path in CONFIGS if path.stem == "paper"))
    assert isinstance(config.optimizer, NoiseDiffusionConfig)
    assert (config.generators.steps, config.optimizer.rounds, config.optimizer.candidates) == (50, 50, 50)
    assert config.optimizer.target_score is config.optimizer.patience is None


@pytest.mark.parametrize(
    "changes",
    [
        {"generators": {"count": 9, "num_gpus": 1, "num_cpus": 3, "batch_size": 2}},
        {"scorers": {"count": 9, "batch_size": 64, "allow_pickle": True}},
        {"ray": {"address": "auto"}},
        {"placement": "auto"},
        {"placement": {"mode": "auto", "calibration": "measured.json", "rebalance_seconds": 5}},
        {"output": {"dir": "/elsewhere"}},
        {"rows_in_flight": 7, "faults": {"retries": 0}, "name": "other"},
    ],
)
def test_where_and_how_fast_a_run_works_may_change_on_resume(changes: dict[str, Any]) -> None:
    assert RunConfig.model_validate(PLAIN | changes).digest() == RunConfig.model_validate(PLAIN).digest()


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"generators": {"steps": 49}},
        {"generators": {"guidance_scale": 7.0}},
        {"scorers": {"readout": "yes_no"}},
        {"optimizer": {"rounds": 49}},
        {"optimizer": {"method": "random_sampling"}},
        {"judges": [{"name": "detector", "model": "embedded/judge"}]},
        {"output": {"rows_per_shard": 2}},
    ],
)
def test_what_is_made_may_not(changes: dict[str, Any]) -> None:
    assert RunConfig.model_validate(PLAIN | changes).digest() != RunConfig.model_validate(PLAIN).digest()


def test_a_search_in_python_needs_no_corpus_and_a_run_does() -> None:
    config = RunConfig(optimizer={"rounds": 4})
    assert (config.corpus, config.optimizer.method, config.optimizer.rounds) == ((), "noise_diffusion", 4)
    assert RunConfig.model_validate(yaml.safe_load(dump_config(config))) == config
    with pytest.raises(UserError, match=r"^corpus: is required; "):
        open_corpus(config)


def test_unquoted_yes_in_yaml_means_the_readout(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("corpus: {source: embedded/simple, size: 3}\nscorers:\n  readout: yes\n")
    assert load_config(path).panel[0].readout == "yes"


@given(rounds=st.integers(0, 10**5), scale=st.floats(0, 1e6), seed=st.integers(0, 2**63 - 1))
def test_a_resolved_config_reads_back_equal(rounds: int, scale: float, seed: int) -> None:
    changes = {"seed": seed, "optimizer": {"rounds": rounds}, "generators": {"guidance_scale": scale}}
    config = RunConfig.model_validate(PLAIN | changes)
    assert RunConfig.model_validate(yaml.safe_load(dump_config(config))) == config


def test_overrides_reach_into_lists_and_new_sections(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"corpus": [PLAIN["corpus"]]}))
    config = load_config(path, ["corpus.0.size=5", "generators.count=2", "optimizer.target_score=0.9"])
    assert (config.corpus[0].size, config.generators.count, config.optimizer.target_score) == (5, 2, 0.9)


@pytest.mark.parametrize(
    "path", [path for path in CONFIGS if "/" in load_config(path).generators.model], ids=lambda path: path.stem
)
def test_a_config_of_a_hub_model_says_offline_what_to_fetch(path: Path) -> None:
    config = load_config(path)
    with pytest.raises(UserError, match=r"model_index\.json is neither") as refused:
        find_generator(config.generators)
    assert f"`hf download {config.generators.model}`" in str(refused.value)
    text = path.read_text()
    assert all(
        f"hf download {model}" in text
        for model in (config.generators.model, *(member.model for member in config.panel))
    )
    assert "estimated by `noisesmith plan`" in text


@pytest.mark.parametrize(
    "path", [path for path in CONFIGS if "clip-flant5" in path.read_text()], ids=lambda path: path.stem
)
def test_a_config_of_clip_flant5_reads_its_pickle_and_names_its_vision_tower(path: Path) -> None:
    (member,) = [member for member in load_config(path).panel if "clip-flant5" in member.model]
    assert member.allow_pickle
    assert "hf download openai/clip-vit-large-patch14-336 config.json preprocessor_config.json" in path.read_text()
