"""SIGKILL of every kind of process at seeded moments: each row once, and the same rows as if nothing had happened."""

from __future__ import annotations

import hashlib
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from noisesmith.pipeline.sinks import read_rows, verify_run
from tests.chaos.killing import await_rows, durable_rows, kill_one, three_nodes
from tests.runs import finish, noisesmith, start, write_config

pytestmark = pytest.mark.chaos
ROWS = 16
VICTIMS = ["generator", "scorer", "writer", "driver", "node"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with three_nodes(cpus=2) as made:
        yield made


def _config(folder: Path, sd: Path, llava: Path, batch: int, count: int) -> Path:
    actors = {"batch_size": batch, "count": count, "num_cpus": 1}
    writers = {"count": count, "num_cpus": 0}
    return write_config(
        folder, sd, llava, rows=ROWS, generators=actors, scorers=actors, writers=writers, rows_in_flight=6
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_sd: Path, tiny_llava: Path) -> list[dict[str, Any]]:
    """The rows of a run with batches of one that nobody disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    code, output = noisesmith("run", _config(folder, tiny_sd, tiny_llava, batch=1, count=1))
    assert code == 0, output
    return list(read_rows(folder / "run"))


def test_kills_at_seeded_moments(
    chaos_seed: int,
    cluster: Cluster,
    undisturbed: list[dict[str, Any]],
    tmp_path: Path,
    tiny_sd: Path,
    tiny_llava: Path,
) -> None:
    """Two writers work, and three after the driver's death.

    Every third seed has batches of more than one row: there floating point depends on who is in them.
    """
    rng, batch = random.Random(chaos_seed), 3 if chaos_seed % 3 == 2 else 1
    config = _config(tmp_path, tiny_sd, tiny_llava, batch, count=2)
    run_dir, address = tmp_path / "run", f"ray.address={cluster.address}"
    victims = rng.sample(VICTIMS, len(VICTIMS))
    moments = sorted(rng.sample(range(1, ROWS - 2), len(victims)))
    process = start("run", config, address)
    for victim, moment in zip(victims, moments, strict=True):
        await_rows(process, run_dir, moment)
        if victim == "driver":
            if process.poll() is None:  # else the run has ended while a node was replaced
                os.killpg(process.pid, signal.SIGKILL)
            code, output = finish(process)
            assert code in (0, -signal.SIGKILL), output
            process = start("run", config, address, "writers.count=3")
        elif victim == "node":
            cluster.remove_node(rng.choice(cluster.list_all_nodes()[1:]), allow_graceful=False)
            cluster.add_node(num_cpus=2)
        elif not kill_one(victim, rng.choice):  # all of its kind are being replaced: there is nobody to kill
            assert process.poll() is None or durable_rows(run_dir) >= ROWS
    code, output = finish(process)
    assert code == 0, output
    assert verify_run(run_dir) == []
    rows = list(read_rows(run_dir))
    assert [row["id"] for row in rows] == [row["id"] for row in undisturbed]
    for row, other in zip(rows, undisturbed, strict=True):
        if batch == 1:
            same = ("scores", "recipe", "noise", "image", "image_initial", "stop_reason")
            assert {name: _digest(row[name]) for name in same} == {name: _digest(other[name]) for name in same}
        else:
            assert row["recipe"]["indices"] == other["recipe"]["indices"]
            assert row["scores"] == pytest.approx(other["scores"], abs=1e-4)


def _digest(value: object) -> object:
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else value
