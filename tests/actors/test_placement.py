"""What a run does about a machine on which Ray cannot start as asked. No Ray is started here."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from pydantic import ValidationError

from noisesmith.actors.placement import cluster
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.errors import RunError, UserError
from noisesmith.pipeline.preflight import check_resources
from tests.actors.world import config


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of each start of a cluster, which has whatever a run needs."""
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(ray, "init", lambda **arguments: calls.append(arguments))
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 64.0, "GPU": 8.0})
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    return calls


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which another process listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def with_port(port: int) -> RunConfig:
    return config(generators={"num_cpus": 0.5}, scorers={"num_cpus": 0.5}, ray={"metrics_port": port})


def test_a_metrics_port_that_is_taken_is_left_and_said(started: list[dict[str, Any]], taken: int) -> None:
    said: list[str] = []
    with cluster(with_port(taken), said.append):
        pass
    assert started[0]["_metrics_export_port"] is None
    (sentence,) = said
    assert sentence.startswith(f"ray.metrics_port: {taken} cannot be used (Address already in use)")


def test_a_free_metrics_port_is_used(started: list[dict[str, Any]], taken: int) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
    said: list[str] = []
    with cluster(with_port(port), said.append):
        pass
    assert started[0]["_metrics_export_port"] == port
    assert said == []


def test_an_elastic_run_starts_in_a_cluster_that_is_too_small(
    started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    sides: dict[str, Any] = {"generators": {"count": 4}, "scorers": {"count": 2}}
    said: list[str] = []
    with cluster(config(**sides, ray={"address": "auto", "elastic": True}), said.append):
        pass
    assert said == [
        "ray.elastic: actors without a place wait for nodes to join (generators.num_cpus, scorers.num_cpus: 4 × 1 for "
        "generators + 2 × 1 for scorers make 6 CPU cores but the cluster has 2; lower count or num_cpus)"
    ]
    fixed = config(**sides, ray={"address": "auto"})
    with pytest.raises(UserError, match="6 CPU cores but the cluster has 2"), cluster(fixed, said.append):
        pass


def test_cores_of_several_writers_count() -> None:
    sides: dict[str, Any] = {"generators": {"num_cpus": 0.5}, "scorers": {"num_cpus": 0.5}}
    check_resources(config(**sides), {"CPU": 1.0}, "this machine")
    sentence = r"writers\.num_cpus: .* \+ 2 × 1 for writers make 3 CPU cores but this machine has 2"
    with pytest.raises(UserError, match=sentence):
        check_resources(config(**sides, writers={"count": 2}), {"CPU": 2.0}, "this machine")
    check_resources(config(**sides, writers={"count": 2, "num_cpus": 0.5}), {"CPU": 2.0}, "this machine")


def test_a_cluster_of_our_own_cannot_be_elastic() -> None:
    with pytest.raises(ValidationError, match=r"elastic: needs ray\.address"):
        config(ray={"elastic": True})


@pytest.mark.parametrize(
    "error", [Exception("The current node timed out during startup. Why."), OSError(28, "No space left on device")]
)
def test_a_ray_that_does_not_start_is_one_sentence(
    error: Exception, started: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders: list[Path] = []

    def fail(**arguments: Any) -> None:
        folders.append(Path(arguments["_temp_dir"]))
        folders[0].mkdir(exist_ok=True)
        raise error

    monkeypatch.setattr(ray, "init", fail)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("long" * 30)))
    sentence = r"^Ray does not start on this machine, with its files in .*/noisesmith-.*/ray \(.*(timed out|space)"
    with pytest.raises(RunError, match=sentence), cluster(with_port(8080), print):
        pass
    assert not folders[0].parent.exists()


def test_a_ray_that_starts_too_slowly_is_started_again(
    started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [Exception("The current node timed out during startup. Why.")]

    def init(**arguments: Any) -> None:
        if failures:
            raise failures.pop()
        started.append(arguments)

    monkeypatch.setattr(ray, "init", init)
    said: list[str] = []
    with cluster(with_port(8080), said.append):
        assert len(started) == 1
    assert said == ["Ray did not start within its 30 seconds; trying again"]
