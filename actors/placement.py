"""Connects to a Ray cluster, checks its resources and places workers on them."""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import ray
from ray._private import ray_constants
from ray.job_config import JobConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from noisesmith.actors.pool import MAX_QUEUED, WRITER_QUEUED
from noisesmith.pipeline.config import Actors, RunConfig
from noisesmith.pipeline.errors import RunError, UserError, reason
from noisesmith.pipeline.machine import MachineResources, ray_folder, usable_cores
from noisesmith.pipeline.preflight import check_resources

CheckResources = Callable[[Mapping[str, float], str], None]

START_ATTEMPTS = 3  # of a cluster of our own: Ray gives up after 30 seconds, which a busy machine may need


@contextmanager
def cluster(config: RunConfig, note: Callable[[str], None], check: CheckResources | None = None) -> Iterator[None]:
    """Join the cluster at ``ray.address``, or start one on this machine; on exit leave the former, stop the latter.

    Args:
        note: called with one sentence where the cluster is not quite as the config asks.
        check: called with what the cluster has, refuses too few GPUs or cores; by default for the config's actors.

    Raises:
        UserError: the cluster cannot be reached, or has too few GPUs or cores, or no folder for its files.
        RunError: it does not start.
    """
    starts_one = config.ray.address is None
    with ray_folder() if starts_one else nullcontext() as folder:
        try:
            _connect(config, folder, note, check or partial(check_resources, config))
            yield
        finally:
            ray.shutdown()


def _connect(config: RunConfig, folder: Path | None, note: Callable[[str], None], check: CheckResources) -> None:
    _set_environment()
    if config.ray.address is not None:
        _join_cluster(config.ray.address)
    elif folder is not None:
        check(MachineResources(), "this machine")
        _start_cluster(config, folder, note)
    try:
        check(ray.cluster_resources(), "the cluster")
    except UserError as error:
        if not config.ray.elastic:
            raise
        note(f"ray.elastic: actors without a place wait for nodes to join ({error})")


def _set_environment() -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # An actor without GPUs must not see any: otherwise it may put a CUDA context on a card that another holds.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    # The driver handles what a call raises by its first reference; Ray would print it for each of the others.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")


def _set_token() -> None:
    """Give our own cluster a password where Ray could not: it keeps one in ``~/.ray``, and stops if it cannot."""
    folder = os.path.expanduser("~/.ray")
    try:
        os.makedirs(folder, exist_ok=True)  # noqa: PTH103 (Path expands ~ only where there is a home folder)
        writable = os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        writable = False
    if not writable and not os.path.exists(f"{folder}/auth_token"):
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _start_cluster(config: RunConfig, folder: Path, note: Callable[[str], None]) -> None:
    """Start a cluster of this machine's resources, which only this machine can reach and which ends with us."""
    # Ray records every call for the dashboard, which we do not start: megabytes per minute, up to 100,000 records.
    os.environ.setdefault("RAY_task_events_report_interval_ms", "0")
    _set_token()
    metrics_port = _free_metrics_port(config.ray.metrics_port, note)
    with _private_cluster():
        for attempt in range(1, START_ATTEMPTS + 1):
            try:
                ray.init(
                    address="local",
                    num_cpus=usable_cores(),
                    job_config=_InstalledCode(),
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    _metrics_export_port=metrics_port,
                    _temp_dir=str(folder),
                )
                return
            except Exception as error:  # Ray has no class of its own for a cluster that does not start
                ray.shutdown()
                if "timed out" in str(error) and attempt < START_ATTEMPTS:
                    note("Ray did not start within its 30 seconds; trying again")
                    continue
                remedy = "; RAY_TMPDIR can name another folder" if isinstance(error, OSError) else ""
                raise RunError(
                    f"Ray does not start on this machine, with its files in {folder} ({reason(error)}){remedy}"
                ) from error


def _free_metrics_port(port: int | None, note: Callable[[str], None]) -> int | None:
    """The port that was asked for, or none where another process has it: metrics are no reason to stop a run."""
    if port is None:
        return None
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            note(
                f"ray.metrics_port: {port} cannot be used ({error.strerror or error}); this run serves no metrics there"
            )
            return None
    return port


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


def actor_options(side: Actors) -> dict[str, float]:
    """Ray options of a worker with models.

    The driver replaces dead workers, so Ray must not restart them. A worker runs every call that it holds in a thread
    of its own: while one uses the models, the other does the work before or after its own turn.
    """
    return {
        "num_gpus": side.num_gpus,
        "num_cpus": side.num_cpus,
        "max_restarts": 0,
        "max_concurrency": MAX_QUEUED,
    }


def writer_options(config: RunConfig) -> dict[str, object]:
    """Ray options of a writer.

    A directory is on the driver's node, and so are its writers. Several writers to an object store are spread over the
    nodes.
    """
    place: object = "SPREAD"
    if config.writers.count == 1 or not config.in_store:
        place = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return {
        "num_cpus": config.writers.cores,
        "num_gpus": 0,
        "max_restarts": 0,
        "max_concurrency": WRITER_QUEUED,
        "scheduling_strategy": place,
    }
