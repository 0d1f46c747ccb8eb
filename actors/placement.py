"""Connects to a Ray cluster, checks its resources and places workers on them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray._private import ray_constants
from ray.job_config import JobConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from noisesmith.pipeline.config import GeneratorConfig, RunConfig, ScorerConfig
from noisesmith.pipeline.errors import UserError, reason
from noisesmith.pipeline.preflight import check_resources, machine_resources


@contextmanager
def cluster(config: RunConfig) -> Iterator[None]:
    """Join the cluster at ``ray.address``, or start one on this machine; on exit leave the former, stop the latter.

    Raises:
        UserError: the cluster cannot be reached, or has too few GPUs or cores.
    """
    try:
        _connect(config)
        yield
    finally:
        ray.shutdown()


def _connect(config: RunConfig) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # An actor without GPUs must not see any: otherwise it may put a CUDA context on a card that another holds.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    # The driver handles what a call raises by its first reference; Ray would print it for each of the others.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    if config.ray.address is None:
        _start_cluster(config.ray.metrics_port, config)
    else:
        _join_cluster(config.ray.address)
    check_resources(config, ray.cluster_resources(), "the cluster")


def _start_cluster(metrics_port: int | None, config: RunConfig) -> None:
    """Start a cluster of this machine's resources, which only this machine can reach and which ends with us."""
    resources = machine_resources()
    check_resources(config, resources, "this machine")
    # Ray records every call for the dashboard, which we do not start: megabytes per minute, up to 100,000 records.
    os.environ.setdefault("RAY_task_events_report_interval_ms", "0")
    with _private_cluster():
        ray.init(
            address="local",
            num_cpus=int(resources["CPU"]),
            job_config=_InstalledCode(),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _metrics_export_port=metrics_port,
        )


def _join_cluster(address: str) -> None:
    """Connect to a running cluster.

    Raises:
        UserError: there is none at ``address``.
    """
    try:
        ray.init(address=address, job_config=_InstalledCode(), log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(
            f"ray.address: no Ray cluster at {address!r} ({reason(error)}); "
            "start one with `ray start --head`, or leave ray.address out to use this machine"
        ) from error


class _InstalledCode(JobConfig):  # type: ignore[misc]  # untyped here
    """Job whose workers import what is installed, never what lies in the driver's current folder.

    Ray puts the driver's current folder and its script's folder first on every worker's ``sys.path``, so that a user's
    own ``noisesmith.py`` or a clone in a folder ``noisesmith`` would be imported in place of this package. Ray leaves
    both out for a job that brings its code in a ``working_dir``.
    """

    def _runtime_env_has_working_dir(self) -> bool:
        return True


@contextmanager
def _private_cluster() -> Iterator[None]:
    """Let a cluster that starts in this block listen on this machine alone, and run its workers as it runs the driver.

    Ray's ports ask for no password, so they must not be reachable from outside. Under `uv run`, Ray would copy the
    current folder to the workers, as the first place to import from.
    """
    settings = ("ENABLE_RAY_CLUSTER", "RAY_ENABLE_UV_RUN_RUNTIME_ENV")
    before = {name: getattr(ray_constants, name) for name in settings}
    for name in settings:
        setattr(ray_constants, name, False)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(ray_constants, name, value)


def actor_options(side: GeneratorConfig | ScorerConfig) -> dict[str, float]:
    """Ray options of a generator or scorer worker. The driver replaces dead workers, so Ray must not restart them."""
    return {"num_gpus": side.num_gpus, "num_cpus": side.num_cpus, "max_restarts": 0}


def writer_options() -> dict[str, object]:
    """Ray options of the writer, which runs on the driver's node, where the run directory was opened."""
    drivers_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return {"num_cpus": 0, "num_gpus": 0, "max_restarts": 0, "scheduling_strategy": drivers_node}
