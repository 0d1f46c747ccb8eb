"""A real Ray cluster of three nodes whose processes can be killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from ray.cluster_utils import Cluster

from noisesmith.pipeline.sinks.staging import staged_rows

ACTORS = {"generator": "ray::GeneratorActor", "scorer": "ray::ScorerActor", "writer": "ray::WriterActor"}
PROCESSES = {**ACTORS, "judge": "ray::JudgeActor"}
QUICK = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 500, "health_check_failure_threshold": 4}


@contextmanager
def three_nodes(cpus: int) -> Iterator[Cluster]:
    """A head without cores and two nodes of ``cpus`` each; a dead node is noticed within seconds."""
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, "_system_config": QUICK},
    )
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=cpus)
        yield cluster
    finally:
        cluster.shutdown()


def actor_processes(kind: str) -> list[psutil.Process]:
    """This test's living actors of a kind, oldest first."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[:1] and process.cmdline()[0].startswith(PROCESSES[kind]):
                found.append(process)
        except psutil.Error:
            continue
    return sorted(found, key=lambda process: process.pid)


def kill_one(kind: str, choose: Callable[[list[Any]], Any]) -> bool:
    """SIGKILL one actor of a kind; false where none lives at the moment."""
    processes = actor_processes(kind)
    if processes:
        os.kill(choose(processes).pid, signal.SIGKILL)
    return bool(processes)


def durable_rows(run_dir: Path) -> int:
    """Rows that are staged or committed: what a kill cannot take."""
    shards = {path.name[6:11] for path in run_dir.glob("data/*.parquet")}
    staged = 0
    for folder in run_dir.glob("staging/*"):
        if folder.name[-5:] not in shards:
            staged += len(staged_rows(run_dir, int(folder.name[-5:])))
    return staged + 4 * len(shards)


def await_rows(process: Any, run_dir: Path, rows: int, seconds: float = 400) -> None:
    """Wait until the run has made ``rows`` rows durable, or has ended."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and durable_rows(run_dir) < rows:
        assert time.monotonic() < deadline, "the run makes no rows"
        time.sleep(0.02)
