"""Which cluster, and which GPUs and cores of it: checked before an actor starts."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray._private import ray_constants
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from noisesmith.pipeline.config import GeneratorConfig, RunConfig, ScorerConfig
from noisesmith.pipeline.errors import UserError, reason
from noisesmith.pipeline.preflight import check_resources, machine_resources


@contextmanager
def cluster(config: RunConfig) -> Iterator[None]:
    """Join the cluster at ``ray.address``, or start one on this machine; leave it, or end it, at the end.

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
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    if config.ray.address is None:
        check_resources(config, have := machine_resources(), "this machine")
        # A record of every call, for a dashboard that is not there: megabytes a minute until there are 100,000.
        os.environ.setdefault("RAY_task_events_report_interval_ms", "0")
        quiet |= {"include_dashboard": False, "_metrics_export_port": config.ray.metrics_port}
        with _loopback():
            ray.init(address="local", num_cpus=int(have["CPU"]), **quiet)
    else:
        try:
            ray.init(address=config.ray.address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(
                f"ray.address: no Ray cluster at {config.ray.address!r} ({reason(error)}); "
                "start one with `ray start --head`, or leave ray.address out to use this machine"
            ) from None
    check_resources(config, ray.cluster_resources(), "the cluster")


@contextmanager
def _loopback() -> Iterator[None]:
    """A cluster begun in this block listens on this machine alone: its ports ask for no password."""
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def actor_options(side: GeneratorConfig | ScorerConfig) -> dict[str, Any]:
    """Ray options of a generator or scorer actor; the driver replaces the dead, so Ray must not."""
    return {"num_gpus": side.num_gpus, "num_cpus": side.num_cpus, "max_restarts": 0}


def writer_options() -> dict[str, Any]:
    """Ray options of the writer: on the driver's node, where the run directory was opened."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return {"num_cpus": 0, "num_gpus": 0, "max_restarts": 0, "scheduling_strategy": here}
