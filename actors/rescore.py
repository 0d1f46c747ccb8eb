"""``noisesmith rescore``: lets judges look at the committed images of a run, and writes a side table for each."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from ray.exceptions import RayError

from noisesmith.actors.judge import JudgeActor, JudgeInfo
from noisesmith.actors.judging import JudgeTable, JudgeWorker, Judging, wanted_shards
from noisesmith.actors.placement import actor_options, cluster
from noisesmith.actors.pool import Pool
from noisesmith.actors.retry import cluster_failure
from noisesmith.actors.surroundings import Surroundings
from noisesmith.pipeline.acceptance import ACCEPTED, accept_again
from noisesmith.pipeline.config import JudgeConfig, RunConfig
from noisesmith.pipeline.config.section import Actors
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.machine import MachineResources
from noisesmith.pipeline.models.runtime import quiet_libraries
from noisesmith.pipeline.report import renew_report
from noisesmith.pipeline.scorers import FoundScorer, find_judge
from noisesmith.pipeline.sinks import CheckLock, SideWriter, config_of_run, hold_side, read_rows
from noisesmith.pipeline.sinks.manifest import read_manifest
from noisesmith.pipeline.sinks.side import refuse_table
from noisesmith.pipeline.telemetry.console import search_progress
from noisesmith.pipeline.telemetry.events import ActorReplaced, Event


def rescore(
    config: RunConfig,
    judges: tuple[JudgeConfig, ...],
    placement: Actors,
    note: Callable[[str], None],
    *,
    replace: bool = False,
) -> int:
    """Write the side tables of ``judges`` for every committed shard that lacks them. The run's lock is held meanwhile.

    A judge is asked as the run's scorer is (question, readout, dtype). What is committed stays when this is
    interrupted; the same call goes on from there.

    Args:
        config: of the run, with ``output.dir`` where it lies.
        placement: how many workers there are and what each holds; ``batch_size`` counts images.
        note: called with one sentence on what this waits for.
        replace: also judge shards again that another revision or model of the same name has judged.

    Returns:
        how many shards were judged.

    Raises:
        UserError: the run has no committed row, a judge's name is taken, its model cannot be found or loaded, or the
            directory cannot be written.
        RunError: workers keep dying, or some rows could not be judged.
    """
    run_dir = config.run_dir
    if not read_manifest(run_dir).filled:
        raise UserError(f"{run_dir}: has no committed row whose image could be judged; let its run write some first")
    found = _find(config, judges, placement)
    if config.ray.address is None:
        _check(placement, MachineResources(), "this machine")
    with hold_side(run_dir, note) as check_lock:
        tables = _open_tables(run_dir, found, check_lock, replace=replace)
        wanted = wanted_shards(tables)
        if wanted:
            _judge(config, found, placement, tables, note)
        settings = config_of_run(run_dir)  # without overrides that were for the judges
        accept_again(run_dir, settings, check_lock)
        renew_report(run_dir, settings)
        return len(wanted)


def judge_columns(name: str) -> pa.Schema:
    """The columns of a judge's side table: its scores of the kept and of the first image."""
    return pa.schema([(f"judge_{name}", pa.float64()), (f"judge_{name}_initial", pa.float64())])


def _find(config: RunConfig, judges: tuple[JudgeConfig, ...], placement: Actors) -> dict[str, FoundScorer]:
    """Find the judges, and refuse names that the run has already."""
    quiet_libraries()
    asked = config.panel[0].model_copy(update={"num_gpus": placement.num_gpus})  # as the first scorer, but elsewhere
    manifest = read_manifest(config.run_dir)
    found: dict[str, FoundScorer] = {}
    for judge in judges:
        if judge.name in found:
            raise UserError(f"--judge {judge.name}: is given twice; every judge needs its own name")
        if judge.name == ACCEPTED:
            raise UserError(f"--judge {ACCEPTED}: is the name of the table of accepted images; choose another name")
        if judge.name in {existing.name for existing in config.judges}:
            raise UserError(
                f"--judge {judge.name}: the run has looked at its images with a judge of this name while it was made; "
                "choose another name"
            )
        refuse_table(manifest, judge.name, judge_columns(judge.name))
        found[judge.name] = find_judge(judge, asked)
    return found


def _open_tables(
    run_dir: Path, found: dict[str, FoundScorer], check_lock: CheckLock, *, replace: bool
) -> dict[str, JudgeTable]:
    """Open the side tables, and refuse to mix what two models or revisions say unless ``replace`` is set."""
    tables = {}
    for name, judge in found.items():
        writer = SideWriter(run_dir, name, judge_columns(name), check_lock)
        origin = {
            "model": judge.source.id,
            "revision": judge.revision,
            "question": judge.question,
            "readout": judge.readout,
        }
        for shard in writer.filled():
            earlier = writer.origin(shard)
            if earlier is not None and earlier != origin and not replace:
                changes = []
                for key, value in origin.items():
                    if earlier.get(key) != value:
                        changes.append(f"{key} was {earlier.get(key)!r} and is now {value!r}")
                raise UserError(
                    f"--judge {name}: shards of the run were judged otherwise ({'; '.join(changes)}); choose another "
                    "name, or judge them again with --replace"
                )
        tables[name] = JudgeTable(writer, origin)
    return tables


def _judge(
    config: RunConfig,
    found: dict[str, FoundScorer],
    placement: Actors,
    tables: dict[str, JudgeTable],
    note: Callable[[str], None],
) -> None:
    run_dir = config.run_dir
    images = ["image"]
    if "image_initial" in read_manifest(run_dir).types:
        images.append("image_initial")
    first = next(read_rows(run_dir, ["height", "width"]))
    size = (first["height"], first["width"])
    on_sigterm = signal.getsignal(signal.SIGTERM)
    note("starting Ray and loading the judges")
    with cluster(config, note, partial(_check, placement)):
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray sets its own handler when it starts

        def make() -> JudgeWorker:
            actor: Any = JudgeActor  # Ray leaves it untyped
            worker: JudgeWorker = actor.options(**actor_options(placement)).remote(found, placement, size)
            return worker

        around = Surroundings(partial(_tell, note))
        pool: Pool[JudgeWorker, JudgeInfo] = Pool("judge", placement.count, make, around)
        total = sum(_rows_of(tables, shard) for shard in wanted_shards(tables)) * len(images)
        with search_progress(total) as advance:
            judging = Judging(tables, images, pool, placement.batch_size, config.faults, around, advance)
            try:
                judging.run()
            except RayError as error:  # of no call: those are handled where their answers arrive
                raise cluster_failure(error) from error
            finally:
                pool.stop()


def _rows_of(tables: dict[str, JudgeTable], shard: int) -> int:
    return next(iter(tables.values())).writer.manifest.entries[shard].rows


def _tell(note: Callable[[str], None], event: Event) -> None:
    if isinstance(event, ActorReplaced):
        note(f"a judge at {event.actor or 'a new worker'} died and is replaced ({event.message})")


def _check(placement: Actors, have: Mapping[str, float], where: str) -> None:
    """Refuse workers that would never be placed."""
    needs = (("GPU", "--num-gpus", placement.num_gpus, "GPUs"), ("CPU", "--num-cpus", placement.num_cpus, "CPU cores"))
    for resource, option, each, unit in needs:
        wanted = placement.count * each
        if wanted > have.get(resource, 0):
            raise UserError(
                f"--count, {option}: {placement.count} × {each:g} make {wanted:g} {unit} but {where} has "
                f"{have.get(resource, 0):g}; lower one of them"
            )
