"""What a run writes: rows staged at once, shards committed in two phases, a manifest that is the truth."""

from pipeline.sinks.done import DoneRows
from pipeline.sinks.lock import hold
from pipeline.sinks.reader import read_rows
from pipeline.sinks.reopen import reopen_failed, repair_run
from pipeline.sinks.run import RunState, check_run_dir, hold_run, open_run
from pipeline.sinks.verify import sample_rows, verify_run
from pipeline.sinks.writer import RunWriter

__all__ = [
    "DoneRows",
    "RunState",
    "RunWriter",
    "check_run_dir",
    "hold",
    "hold_run",
    "open_run",
    "read_rows",
    "reopen_failed",
    "repair_run",
    "sample_rows",
    "verify_run",
]
