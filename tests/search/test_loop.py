"""The loop that a reader of the paper reads first gives what a distributed run writes, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from noisesmith.actors.session import Session
from noisesmith.pipeline.config import METHODS, RunConfig, load_config
from noisesmith.pipeline.load import load_models
from noisesmith.pipeline.prompts import open_corpus
from noisesmith.pipeline.replay import replay_row
from noisesmith.pipeline.search.loop import LoadedModels
from noisesmith.pipeline.sinks import open_run, read_rows
from noisesmith.pipeline.telemetry.console import ConsoleProgress
from tests.runs import rows_of_the_loop, write_config
from tests.sessions import one_process_per_worker

pytestmark = pytest.mark.slow

ONE = {"batch_size": 1}
IMAGES = {"preview": "all", "probe": "all", "random_diffusion": "all", "move_from_best": "worst"}
READS_ATTENTION = ("initno", "attend_and_excite")
VARIANTS: dict[str, dict[str, Any]] = {method: {"method": method} for method in METHODS} | {
    "order_statistic": {"method": "noise_diffusion", "selection": "order_statistic"},
    "preview": {"method": "noise_diffusion", "preview": {"steps": 1, "keep": 2}},
    "probe": {"method": "noise_diffusion", "probe": {"at": 0.5, "keep": 2}},
    "move_from_best": {"method": "random_diffusion", "move_from": "best", "target_score": 0.9999},
}


def _config(folder: Path, tiny_sd: Path, tiny_llava: Path, variant: str) -> RunConfig:
    optimizer = VARIANTS[variant] | {"rounds": 0 if variant == "none" else 2}
    if variant in READS_ATTENTION:
        optimizer |= {"attention_size": 4}
    if variant == "initno":
        optimizer |= {"steps": 2, "restarts": 2}
    path = write_config(folder, tiny_sd, tiny_llava, rows=2, generators=ONE, scorers=ONE, rows_in_flight=2)
    settings = load_config(path).model_dump(mode="json")
    judges = [{"name": "second", "model": str(tiny_llava)}]
    output = settings["output"] | {"images": IMAGES.get(variant)}
    return RunConfig.model_validate(settings | {"optimizer": optimizer, "judges": judges, "output": output})


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_sd: Path, tiny_llava: Path) -> Iterator[Session]:
    config = _config(tmp_path_factory.mktemp("any"), tiny_sd, tiny_llava, "none")
    with one_process_per_worker(config) as session:
        yield session


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_sd: Path, tiny_llava: Path) -> LoadedModels:
    """The generator, the scorer and the judge are the same for every method."""
    return load_models(_config(tmp_path_factory.mktemp("any"), tiny_sd, tiny_llava, "none"), "cpu")


@pytest.mark.parametrize("variant", VARIANTS)
def test_workers_and_loop_give_identical_rows_at_batch_size_one(
    tmp_path: Path, runs: Session, models: LoadedModels, tiny_sd: Path, tiny_llava: Path, variant: str
) -> None:
    config = _config(tmp_path, tiny_sd, tiny_llava, variant)
    corpus = open_corpus(config)
    outcome, _ = runs.drive(config, corpus, open_run(config, corpus), ConsoleProgress(Console(quiet=True)))
    written = list(read_rows(config.run_dir))
    assert outcome.complete
    assert written == rows_of_the_loop(config, corpus, models, outcome.provenance)
    assert all(row["judge_second"] is not None for row in written)
    if variant == "probe":
        assert all(row["steps"] == [2, 1, 1, 2, 2] and row["evaluations"] == [2, 1, 1, 1, 1] for row in written)
        again = replay_row(config.run_dir, config, written[0]["id"])
        assert again.noise_identical
        assert again.image_identical, "two calls of half the steps made what one call makes"
    if IMAGES.get(variant) == "all":
        for row in written:
            images = row["round_images"]
            assert [image is not None for image in images] == [steps == row["steps"][0] for steps in row["steps"]]
            assert images[0] == row["image_initial"]
            assert row["image"] in images
