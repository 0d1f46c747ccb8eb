"""A cluster that grows and shrinks while a run works: new nodes get actors, and lost ones cost their calls only."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from noisesmith.pipeline.sinks import read_rows, verify_run
from tests.chaos.killing import actor_processes, await_rows, durable_rows, three_nodes
from tests.runs import finish, start, write_config

pytestmark = pytest.mark.chaos
IN_FLIGHT = 4
ROWS = 60
KINDS = ("generator", "scorer")


def await_actors(process: Any, each: int) -> None:
    """Wait until ``each`` generators and scorers live."""
    deadline = time.monotonic() + 200
    while any(len(actor_processes(kind)) < each for kind in KINDS):
        assert process.poll() is None, "the run has ended before the new nodes had actors"
        assert time.monotonic() < deadline, "the new nodes get no actors"
        time.sleep(0.05)


def test_nodes_that_join_do_the_work_of_those_that_leave(tmp_path: Path, tiny_sd: Path, tiny_llava: Path) -> None:
    """Two nodes start the run; two join and get an actor each; the first two die, and the run ends without them.

    The first generator stands still from the second row on, so that almost all rows are the new nodes' work.
    """
    actors = {"batch_size": 1, "count": 2, "num_cpus": 1}
    config = write_config(
        tmp_path, tiny_sd, tiny_llava, rows=ROWS, generators=actors, scorers=actors, rows_in_flight=IN_FLIGHT
    )
    run_dir = tmp_path / "run"
    with three_nodes(cpus=1) as cluster:
        process = start("run", config, f"ray.address={cluster.address}", "ray.elastic=true")
        await_rows(process, run_dir, 1)
        assert [len(actor_processes(kind)) for kind in KINDS] == [1, 1]
        actor_processes("generator")[0].suspend()
        first = cluster.list_all_nodes()[1:]
        for _ in first:
            cluster.add_node(num_cpus=1)
        await_actors(process, each=2)
        assert durable_rows(run_dir) < ROWS
        for node in first:
            cluster.remove_node(node, allow_graceful=False)
        code, output = finish(process)
    assert code == 0, output
    assert "ray.elastic: actors without a place wait for nodes to join" in output
    assert verify_run(run_dir) == []
    assert len(list(read_rows(run_dir))) == ROWS
