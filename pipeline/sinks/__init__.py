"""The run directory: rows staged at once, shards committed in two phases, a manifest that lists what counts."""

from noisesmith.pipeline.sinks.commit import Committer, Prepared
from noisesmith.pipeline.sinks.configs import config_of_row, config_of_run, first_config, later_configs
from noisesmith.pipeline.sinks.done import DoneRows
from noisesmith.pipeline.sinks.parts import check_part, hold_part, refuse_partition
from noisesmith.pipeline.sinks.reader import read_rows
from noisesmith.pipeline.sinks.reopen import reopen_failed, repair_run
from noisesmith.pipeline.sinks.run import (
    RunState,
    check_run_dir,
    hold_run,
    made_with,
    open_run,
    part_with,
    started_corpus,
    started_part,
)
from noisesmith.pipeline.sinks.side import CheckLock, SideWriter, hold_side
from noisesmith.pipeline.sinks.staging import Staged
from noisesmith.pipeline.sinks.verify import sample_rows, verify_run
from noisesmith.pipeline.sinks.writer import ShardWriter

__all__ = [
    "CheckLock",
    "Committer",
    "DoneRows",
    "Prepared",
    "RunState",
    "ShardWriter",
    "SideWriter",
    "Staged",
    "check_part",
    "check_run_dir",
    "config_of_row",
    "config_of_run",
    "first_config",
    "hold_part",
    "hold_run",
    "hold_side",
    "later_configs",
    "made_with",
    "open_run",
    "part_with",
    "read_rows",
    "refuse_partition",
    "reopen_failed",
    "repair_run",
    "sample_rows",
    "started_corpus",
    "started_part",
    "verify_run",
]
