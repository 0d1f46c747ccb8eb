"""What a run writes: rows staged at once, shards committed in two phases, a manifest that is the truth."""

from pipeline.sinks.done import DoneRows
from pipeline.sinks.reader import read_rows
from pipeline.sinks.run import RunState, check_run_dir, open_run
from pipeline.sinks.verify import verify_run
from pipeline.sinks.writer import RunWriter

__all__ = ["DoneRows", "RunState", "RunWriter", "check_run_dir", "open_run", "read_rows", "verify_run"]
