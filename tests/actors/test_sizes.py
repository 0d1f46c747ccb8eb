"""Rows of several image sizes: batches never mix them, no size waits for others, and a run resumes and replays."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from noisesmith.actors.session import Session
from noisesmith.pipeline.config import RunConfig, load_config
from noisesmith.pipeline.extend import find_extension
from noisesmith.pipeline.load import load_models
from noisesmith.pipeline.prompts import open_corpus
from noisesmith.pipeline.records import Row
from noisesmith.pipeline.replay import replay_row
from noisesmith.pipeline.sinks import config_of_row, hold_run, open_run, read_rows, sample_rows, verify_run
from noisesmith.pipeline.telemetry.console import ConsoleProgress
from noisesmith.pipeline.telemetry.events import Event, RowWritten, Snapshot
from tests import tiny, tiny_flux, tiny_generators
from tests.actors.parts import Parts
from tests.actors.world import Prompts, World, config, driver
from tests.runs import rows_of_the_loop, write_config
from tests.sessions import one_process_per_worker

SIZES = [(32, 32), (48, 32), (32, 48)]  # width and height; packed, the last two have noises of one shape


class Sized(Prompts):
    """Rows whose images have the sizes that ``pattern`` gives by index."""

    def __init__(self, pattern: list[tuple[int, int]]) -> None:
        super().__init__(len(pattern))
        self.pattern = pattern
        self.resolutions = tuple(dict.fromkeys(pattern))

    def rows(self, skip: object = ()) -> Iterator[Row]:
        for index, size in enumerate(self.pattern):
            yield Row(index, f"{index:08d}", f"p{index}", resolution=size)


def drive(world: World, pattern: list[tuple[int, int]], **sections: Any) -> None:
    assert driver(world, len(pattern), config(**sections), Sized(pattern)).run().complete


def test_no_batch_of_any_stage_has_two_sizes() -> None:
    pattern = [SIZES[index * index % 3] for index in range(50)]
    world = World()
    drive(world, pattern, optimizer={"rounds": 3}, scorers={"batch_size": 4})
    for stage in ("generate", "score", "render"):
        batches = [sent.prompts for sent in world.sent if sent.stage == stage]
        assert sum(map(len, batches)) == 50 * (1 if stage == "render" else 4)
        for prompts in batches:
            assert len({pattern[int(prompt[1:])] for prompt in prompts}) == 1
        assert max(map(len, batches)) > 1
    assert len(world.of(RowWritten)) == 50


def test_paused_rows_of_several_sizes_are_batched_apart() -> None:
    pattern = [SIZES[index % 3] for index in range(24)]
    world = Parts()
    drive(world, pattern, optimizer={"rounds": 2, "probe": {"at": 0.25, "keep": 1}}, generators={"steps": 4})
    assert len(world.of(RowWritten)) == 24
    assert set.union(*world.parts) == {(0, None), (0, 1), (1, None)}
    assert all(len(parts) == 1 for parts in world.parts)
    assert world.resumed == [True] * 24
    batches = [sent.prompts for sent in world.sent if sent.stage in ("generate", "score", "render")]
    assert all(len({pattern[int(prompt[1:])] for prompt in prompts}) == 1 for prompts in batches)
    assert max(map(len, batches)) > 1


def test_a_rare_size_does_not_wait_until_its_batch_is_full() -> None:
    """Workers always have full batches of the common size to choose, and no second row of the rare one ever comes."""
    in_flight = 16
    pattern = [SIZES[0]] * 120
    pattern[20] = SIZES[1]
    world = World()
    drive(world, pattern, rows_in_flight=in_flight, optimizer={"rounds": 2})
    written = [event.row for event in world.of(RowWritten)]
    assert written.index("00000020") < 20 + 2 * in_flight
    assert {len(sent.prompts) for sent in world.sent if "p20" in sent.prompts} == {1}


def test_more_rows_are_in_flight_where_images_have_several_sizes() -> None:
    held = []
    for sizes in (SIZES[:1], SIZES):
        world = World()
        drive(world, sizes * 60)
        held.append(max(snapshot.in_flight for snapshot in world.of(Snapshot)))
    assert held == [16, 48]


MODELS = {"sdxl": tiny_generators.stable_diffusion_xl, "flux": tiny_flux.flux_dev, "llava": tiny.llava}
OPTIONS: dict[str, dict[str, Any]] = {
    "sdxl": {"scheduler": "euler"},
    "flux": {"scheduler": "flow_euler", "guidance_scale": 3.5, "width": 32, "height": 32},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: build(folder / name) for name, build in MODELS.items()}


def written_csv(path: Path, rows: int) -> Path:
    """Prompts whose wanted sizes have the ratios of :data:`SIZES` in turn."""
    lines = ["caption,width,height"]
    for index in range(rows):
        width, height = SIZES[index % 3]
        lines.append(f"a cat and {index} dogs,{width * 20},{height * 20}")
    path.write_text("\n".join(lines) + "\n")
    return path


def sized_config(
    folder: Path, models: dict[str, Path], name: str, batch_size: int, rows: int, **optimizer: Any
) -> RunConfig:
    section = {
        "source": str(written_csv(folder / "sized.csv", rows)),
        "column": "caption",
        "columns": {"rename": {"width": "wanted_width", "height": "wanted_height"}},
        "resolution": {"width": "width", "height": "height"},
    }
    side = {"batch_size": batch_size}
    generators = {**OPTIONS[name], **side, "buckets": SIZES}
    sections: dict[str, Any] = {"generators": generators, "scorers": side, "corpus": [section], "optimizer": optimizer}
    return load_config(write_config(folder, models[name], models["llava"], rows_in_flight=4, **sections))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, models: dict[str, Path]) -> Iterator[Session]:
    with one_process_per_worker(sized_config(tmp_path_factory.mktemp("any"), models, "sdxl", 1, 3)) as session:
        yield session


def quiet() -> ConsoleProgress:
    return ConsoleProgress(Console(quiet=True))


def check_rows(config: RunConfig) -> list[dict[str, Any]]:
    """The rows of a finished run, each with the size that its prompt asks for, and none damaged."""
    assert verify_run(config.run_dir, sample_rows(config.run_dir, 99)) == []
    rows = list(read_rows(config.run_dir))
    for row in rows:
        size = (row["width"], row["height"])
        assert size == (row["wanted_width"] // 20, row["wanted_height"] // 20)
        for column in ("image", "image_initial"):
            assert Image.open(io.BytesIO(row[column])).size == size
    assert {(row["width"], row["height"]) for row in rows} == set(SIZES)
    return rows


@pytest.mark.slow
def test_workers_and_loop_give_identical_rows_of_three_sizes(
    tmp_path: Path, runs: Session, models: dict[str, Path]
) -> None:
    """FLUX packs its latents, so that two of the sizes have noises, and paused probes, of one shape."""
    config = sized_config(tmp_path, models, "flux", 1, 4, probe={"at": 0.5, "keep": 1})
    corpus = open_corpus(config)
    outcome, _ = runs.drive(config, corpus, open_run(config, corpus), quiet())
    assert outcome.complete
    rows = check_rows(config)
    assert rows == rows_of_the_loop(config, corpus, load_models(config, "cpu"), outcome.provenance)
    assert all(row["steps"] == [2, 1, 1, 2] for row in rows)
    assert {tuple(row["recipe"]["shape"]) for row in rows} == {(64, 64), (96, 64)}
    for row in rows[:3]:
        again = replay_row(config.run_dir, config_of_row(config.run_dir, row["id"]), row["id"])
        assert (again.noise_identical, again.image_identical) == (True, True)
        assert again.png == row["image"]


class Stopping(ConsoleProgress):
    """Lets the run admit no more rows once the first is written."""

    def __init__(self, runs: Session) -> None:
        super().__init__(Console(quiet=True))
        self.runs = runs

    def emit(self, event: Event) -> None:
        super().emit(event)
        if isinstance(event, RowWritten):
            running: Any = vars(self.runs)["_driver"]
            running.drain()


@pytest.mark.slow
def test_a_stopped_run_of_three_sizes_is_resumed_replayed_and_extended(
    tmp_path: Path, runs: Session, models: dict[str, Path]
) -> None:
    config = sized_config(tmp_path, models, "sdxl", 3, 7)
    corpus = open_corpus(config)
    with hold_run(config, corpus, print) as state:
        outcome, _ = runs.drive(config, corpus, state, Stopping(runs))
    assert not outcome.complete
    corpus = open_corpus(config, corpus.digest)
    with hold_run(config, corpus, print) as state:
        assert state.resumed
        assert 0 < len(state.done) < 7
        outcome, _ = runs.drive(config, corpus, state, quiet())
    assert outcome.complete
    rows = check_rows(config)
    assert [row["id"] for row in rows] == [row.id for row in corpus.rows()]
    for row in rows[:3]:
        width, height = row["width"], row["height"]
        assert row["recipe"]["shape"] == [4, height // 2, width // 2]
        again = replay_row(config.run_dir, config_of_row(config.run_dir, row["id"]), row["id"])
        assert again.noise_identical
        assert again.max_difference <= 2, "the batch size differs"

    written_csv(tmp_path / "more.csv", 3)
    for overrides, below in (([f"corpus.source={tmp_path}/more.csv"], None), (["optimizer.rounds=3"], 1.0)):
        more = find_extension(config.run_dir, overrides, below)
        with more.hold(print) as state:
            assert runs.drive(more.config, more.corpus, state, quiet())[0].complete
    every = check_rows(config)
    continued = [row for row in every if row["parent_id"] is not None]
    by_id = {row["id"]: row for row in every}
    assert (len(every), len(continued)) == (20, 10)
    for row in continued:
        assert (row["width"], row["height"]) == tuple(by_id[row["parent_id"]][side] for side in ("width", "height"))
