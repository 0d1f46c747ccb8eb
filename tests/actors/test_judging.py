"""Judging the images of committed shards, without Ray: workers answer at once, or as a test says."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayTaskError

from noisesmith.actors.judge import JudgeInfo, Verdicts
from noisesmith.actors.judging import JudgeTable, JudgeWorker, Judging
from noisesmith.actors.pool import Loaded, Pool
from noisesmith.actors.rescore import judge_columns, rescore
from noisesmith.actors.surroundings import Surroundings
from noisesmith.pipeline.config import JudgeConfig
from noisesmith.pipeline.config.cluster import FaultsConfig
from noisesmith.pipeline.config.section import Actors
from noisesmith.pipeline.errors import MemoryExhausted, RunError, UserError
from noisesmith.pipeline.images import decode_png
from noisesmith.pipeline.sinks import SideWriter, hold_side, read_rows, verify_run
from tests.sinks.conftest import Run, failure, png, result

ORIGIN = {"model": "eye", "revision": "1"}
ROWS = 10
Fault = Callable[["FakeJudge", list[bytes]], Exception | None]


@dataclass
class Reference:
    answer: Future[Any] = field(default_factory=Future)

    def future(self) -> Future[Any]:
        return self.answer


@dataclass
class Remote:
    call: Callable[..., Any]

    def remote(self, *arguments: Any) -> Reference:
        reference = Reference()
        try:
            reference.answer.set_result(self.call(*arguments))
        except Exception as error:  # noqa: BLE001 (as a worker's)
            reference.answer.set_exception(error)
        return reference


class FakeJudge:
    """Scores a picture by its length, and cannot tell of the first image of row 3."""

    def __init__(self, world: World) -> None:
        self.load = Remote(lambda: Loaded(JudgeInfo(("1",)), "host:1"))
        self.judge = Remote(self._judge)
        self.world = world

    def _judge(self, names: list[str], prompts: list[str], pictures: list[bytes]) -> Verdicts:
        self.world.batches.append(len(pictures))
        error = self.world.fault(self, pictures)
        if error is not None:
            raise error
        assert len(prompts) == len(pictures)
        return Verdicts(0.1, {name: [score_of(picture) for picture in pictures] for name in names})


def score_of(picture: bytes) -> float | None:
    """What every fake judge says of an image; it cannot judge the first image of row 3."""
    if decode_png(picture).equal(decode_png(png(1003))):
        return None
    return sum(picture) % 1000 / 1000


@dataclass
class World:
    run_dir: Path
    fault: Fault = lambda *_: None
    batches: list[int] = field(default_factory=list)
    advanced: int = 0
    time: float = 0.0

    def clock(self) -> float:
        self.time += 2.0
        return self.time

    def judge(self, names: tuple[str, ...] = ("clip",), count: int = 2, batch_size: int = 6, **faults: Any) -> None:
        around = Surroundings(lambda _: None, clock=self.clock, kill=lambda _: None)

        def make() -> JudgeWorker:
            worker: Any = FakeJudge(self)
            return worker

        def advance(images: int) -> None:
            self.advanced += images

        pool: Pool[JudgeWorker, JudgeInfo] = Pool("judge", count, make, around)
        with hold_side(self.run_dir, print) as lock:
            tables = {}
            for name in names:
                tables[name] = JudgeTable(SideWriter(self.run_dir, name, judge_columns(name), lock), ORIGIN)
            images = ["image", "image_initial"]
            settings = FaultsConfig(**{"backoff_seconds": 0.0, **faults})
            Judging(tables, images, pool, batch_size, settings, around, advance).run()


@pytest.fixture(autouse=True)
def no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    lines = [{"prompt": f"prompt {n}"} for n in range(ROWS)]
    return Run(tmp_path, lines).write_all()


def check(run: Run, name: str = "clip") -> None:
    assert verify_run(run.dir) == []
    rows = list(read_rows(run.dir, ["image", "image_initial", f"judge_{name}", f"judge_{name}_initial"]))
    assert [row[f"judge_{name}"] for row in rows] == [score_of(row["image"]) for row in rows]
    assert [row[f"judge_{name}_initial"] for row in rows] == [score_of(row["image_initial"]) for row in rows]
    assert rows[3][f"judge_{name}_initial"] is None


def test_a_batch_has_images_of_one_size(tmp_path: Path) -> None:
    run = Run(tmp_path, [{"prompt": f"prompt {n}"} for n in range(ROWS)])
    writer = run.writer()
    for row in run.rows:
        size = (8, 6) if row.index % 3 else (6, 8)
        made = replace(result(row), width=size[0], height=size[1])
        writer.put(replace(made, image=png(row.index, size), image_initial=png(row.index + 1000, size)))
    world = World(run.dir)
    sizes = []

    def note(_: FakeJudge, pictures: list[bytes]) -> None:
        sizes.append({tuple(decode_png(picture).shape) for picture in pictures})

    world.fault = note
    world.judge()
    assert {len(of_batch) for of_batch in sizes} == {1}
    assert max(world.batches) > 2
    assert verify_run(run.dir) == []
    rows = list(read_rows(run.dir, ["image", "judge_clip"]))
    assert [row["judge_clip"] for row in rows] == [score_of(row["image"]) for row in rows]


@pytest.mark.parametrize(("count", "batch_size"), [(1, 1), (2, 6), (3, 400)])
def test_every_image_has_its_own_score_whatever_the_batches(run: Run, count: int, batch_size: int) -> None:
    world = World(run.dir)
    world.judge(("clip", "other"), count=count, batch_size=batch_size)
    check(run, "clip")
    check(run, "other")
    assert world.advanced == 2 * ROWS
    assert max(world.batches) <= max(batch_size, 2)
    world.judge(("clip", "other"))
    assert world.advanced == 2 * ROWS, "nothing is left to do"


def test_only_shards_that_lack_a_judge_are_judged_by_it(run: Run) -> None:
    world = World(run.dir)
    world.judge()
    path = run.dir / "side" / "clip" / "train-00001-of-00003.parquet"
    manifest = run.dir / "manifest.jsonl"
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join(line for line in lines if '"side"' not in line or '"shard": 1,' not in line))
    world.batches.clear()
    world.judge()
    assert sum(world.batches) == 2 * 4
    assert path.exists()
    check(run)


def test_a_dead_worker_is_replaced_and_costs_nothing(run: Run) -> None:
    dead: list[FakeJudge] = []

    def die(judge: FakeJudge, pictures: list[bytes]) -> Exception | None:
        if judge not in dead and len(dead) < 3:
            dead.append(judge)
            return ActorDiedError()
        return None

    World(run.dir, die).judge()
    assert len(dead) == 3
    check(run)


@pytest.mark.parametrize("error", [RayTaskError("judge", "", MemoryExhausted("no room")), OutOfMemoryError("killed")])
def test_a_batch_that_is_too_large_is_halved(run: Run, error: Exception) -> None:
    world = World(run.dir, lambda _, pictures: error if len(pictures) > 2 else None)
    world.judge(batch_size=8)
    check(run)
    assert set(world.batches[-5:]) == {2}


def test_a_row_that_cannot_be_judged_keeps_its_shard_out_and_is_named(run: Run) -> None:
    bad = [row["image"] for row in read_rows(run.dir, ["image"])][5]

    def fail(_: FakeJudge, pictures: list[bytes]) -> Exception | None:
        return RayTaskError("judge", "", ValueError("no such colour")) if bad in pictures else None

    world = World(run.dir, fail)
    sentence = (
        rf"1 rows could not be judged, so their shards are left out: {run.rows[5].id}: ValueError: no such colour"
    )
    with pytest.raises(RunError, match=sentence):
        world.judge(retries=1)
    values = [row["judge_clip"] for row in read_rows(run.dir, ["judge_clip"])]
    assert [value is None for value in values] == [4 <= n < 8 for n in range(ROWS)]
    assert verify_run(run.dir) == []
    World(run.dir).judge()
    check(run)


def test_a_judge_that_always_fails_stops_soon(tmp_path: Path) -> None:
    run = Run(tmp_path, [{"prompt": f"prompt {n}"} for n in range(60)]).write_all()
    world = World(run.dir, lambda *_: RayTaskError("judge", "", ValueError("broken")))
    with pytest.raises(RunError, match=r"more than faults\.failed_share"):
        world.judge(retries=0)
    assert len(world.batches) < 60


def test_dead_letters_are_not_judged(tmp_path: Path) -> None:
    run = Run(tmp_path, [{"prompt": f"prompt {n}"} for n in range(ROWS)])
    writer = run.writer()
    for row in run.rows:
        writer.fail(failure(row)) if row.index in (1, 4, 5, 6, 7) else writer.put(result(row))
    World(run.dir).judge()
    assert verify_run(run.dir) == []
    assert None not in [row["judge_clip"] for row in read_rows(run.dir, ["judge_clip"])]


class TestRefusals:
    def test_a_run_without_a_committed_row(self, tmp_path: Path) -> None:
        run = Run(tmp_path, [{"prompt": "a cat"}])
        run.writer()
        self.refused(run, "has no committed row whose image", JudgeConfig(name="other", model="embedded/judge"))

    def refused(self, run: Run, message: str, *judges: JudgeConfig, count: int = 1, gpus: float = 0) -> None:
        with pytest.raises(UserError, match=message):
            rescore(run.config, judges, Actors(count=count, num_gpus=gpus), print)
        assert not (run.dir / "side").exists()

    def test_before_any_model_is_loaded(self, run: Run) -> None:
        again = JudgeConfig(name="eye", model="embedded/judge")
        other = JudgeConfig(name="other", model="embedded/judge")
        self.refused(run, "^--judge eye: the run has looked .* choose another name", again)
        self.refused(run, "^--judge other: is given twice", other, other)
        self.refused(run, "^side table default: |^side table 'default'", JudgeConfig(name="default", model="x"))
        self.refused(run, r"^judges\.gone\.model: no folder", JudgeConfig(name="gone", model="nowhere"))
        self.refused(run, "^--count, --num-gpus: 99 × 1 make 99 GPUs but this machine", other, count=99, gpus=1)
        self.refused(run, "^--count, --num-cpus: 4000 × 1 make 4000 CPU", other, count=4000)
