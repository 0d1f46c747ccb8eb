"""Times the commands of a comparison, each in processes of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from noisesmith.pipeline.bench.loop.design import LONG, LoopDesign, Timed
from noisesmith.pipeline.bench.loop.worker import READY, LoopRow, Order, read_results
from noisesmith.pipeline.bench.started import begin
from noisesmith.pipeline.config import RunConfig, dump_config
from noisesmith.pipeline.errors import RunError, UserError
from noisesmith.pipeline.machine import usable_cores
from noisesmith.pipeline.sinks import read_rows
from noisesmith.pipeline.storage.files import make_dir, remove_tree, write_atomic
from noisesmith.pipeline.storage.home import location_of

# -P: the current folder is no place to import from.
COMMAND = (sys.executable, "-P", "-c", "from noisesmith.pipeline.cli import main; main()", "run")
WORKER = (sys.executable, "-P", "-m", "noisesmith.pipeline.bench.loop.worker")


@dataclass(frozen=True)
class Measured:
    """One command, timed once.

    Attributes:
        wall_seconds: from the start of its first process to the end of its last one.
        seconds: from when all its models were loaded to its last row.
        rows: made.
        images: made for them.
        found: the loop's rows.
    """

    wall_seconds: float
    seconds: float
    rows: int
    images: int
    found: tuple[LoopRow, ...] = ()

    @property
    def rows_per_minute(self) -> float:
        """Without start and end."""
        return 60 * self.rows / self.seconds

    @property
    def outside(self) -> float:
        """Seconds of start and end."""
        return self.wall_seconds - self.seconds

    def seconds_for(self, rows: int) -> float:
        """Seconds of a command that makes so many rows, start and end included."""
        return self.outside + rows * self.seconds / self.rows


def read_measured(path: Path) -> Measured:
    """What was measured.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        found = tuple(LoopRow(**row) for row in plain.pop("found"))
        return Measured(**plain, found=found)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: cannot be read ({error}); delete it, and run the same command again") from error


def measure(design: LoopDesign, note: Callable[[str], None]) -> None:
    """Time every command as often as asked for, in turns, and leave out what is measured already.

    Args:
        note: called with one line per command.

    Raises:
        RunError: a command failed.
    """
    begin(design.out, design.settings())
    for repeat in range(design.options.repeats):
        for timed in design.timed():
            path = design.measurement_of(timed, repeat)
            if path.is_file():
                continue
            folder = design.folder_of(timed, repeat)
            remove_tree(folder)  # of a command that was stopped: a resumed one would be timed in part
            measured = _time_loop(design, timed, repeat) if timed.is_loop else _time_run(timed.config, folder)
            make_dir(path.parent)
            write_atomic(path, (json.dumps(asdict(measured), indent=1) + "\n").encode())
            note(
                f"repeat {repeat + 1} of {design.options.repeats}, {timed.name}: {measured.rows} rows in "
                f"{measured.wall_seconds:.0f} s, {measured.rows_per_minute:.1f} rows/min once models were loaded"
            )
    if design.options.truth:
        _find_truth(design, note)


def _find_truth(design: LoopDesign, note: Callable[[str], None]) -> None:
    """Make the loop's search over all prompts by `noisesmith run`, which resumes: it is not timed."""
    config = design.config(LONG)
    if not _is_complete(config):
        note(f"the loop's search of {design.runs.corpus.size} prompts by noisesmith run, for its judged truth")
        _run(config, config.run_dir)


def _is_complete(config: RunConfig) -> bool:
    report = config.run_dir / "stats.json"
    return report.is_file() and json.loads(report.read_bytes())["operations"]["state"] == "finished"


def _time_run(config: RunConfig, folder: Path) -> Measured:
    """One whole `noisesmith run`."""
    began = time.monotonic()
    _run(config, folder)
    wall = time.monotonic() - began
    operations = json.loads((folder / "stats.json").read_bytes())["operations"]
    images = sum(len(row["scores"]) for row in read_rows(folder, ["scores"]))
    return Measured(wall, operations["seconds"], operations["rows_written"], images)


def _run(config: RunConfig, folder: Path) -> None:
    path = _write_config(config, folder)
    with _started([*COMMAND, str(path)], _log_of(folder)) as process:
        process.wait()
    _check(process, "noisesmith run", _log_of(folder))


def _time_loop(design: LoopDesign, timed: Timed, repeat: int) -> Measured:
    """The loop in so many processes, which begin at the same time once all have loaded their models."""
    folder = design.folder_of(timed, repeat)
    path = _write_config(timed.config, folder)
    orders = list(_orders(design, timed, repeat, path))
    log = _log_of(folder)
    began = time.monotonic()
    with ExitStack() as stack:
        processes = []
        for order in orders:
            command = [*WORKER, json.dumps(asdict(order))]
            processes.append(stack.enter_context(_started(command, log, talks=True)))
        for process in processes:
            assert process.stdout is not None
            if not any(line.strip() == READY for line in iter(process.stdout.readline, "")):
                process.wait()
                _check(process, "the loop", log)
        for process in processes:
            assert process.stdin is not None
            print("begin", file=process.stdin, flush=True)
        for process in processes:
            process.wait()
            _check(process, "the loop", log)
    wall = time.monotonic() - began
    results = [read_results(Path(order.folder)) for order in orders]
    found = tuple(row for result in results for row in result.rows)
    seconds = max(result.seconds for result in results)
    return Measured(wall, seconds, len(found), sum(len(row.scores) for row in found), found)


def _orders(design: LoopDesign, timed: Timed, repeat: int, config: Path) -> Iterator[Order]:
    """What each process is to do: other prompts in every repeat, and all cores shared."""
    size = design.runs.corpus.size
    first = repeat * timed.processes * timed.rows
    for number in range(timed.processes):
        start = first + number * timed.rows
        positions = [position % size for position in range(start, start + timed.rows)]
        threads = max(1, usable_cores() // timed.processes)
        folder = design.folder_of(timed, repeat) / str(number)
        yield Order(str(config), positions, timed.rounds, threads, str(folder))


def _write_config(config: RunConfig, folder: Path) -> Path:
    """The config of a command next to the folder that it writes to."""
    make_dir(folder.parent)
    output = config.output.model_copy(update={"dir": location_of(folder)})
    path = folder.with_name(f"{folder.name}.yaml")
    write_atomic(path, dump_config(config.model_copy(update={"output": output})).encode())
    return path


def _log_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.log")


@contextmanager
def _started(command: list[str], log: Path, *, talks: bool = False) -> Iterator[subprocess.Popen[str]]:
    """A process that ends with the block, at the latest. What it prints goes to the log, unless it talks to us."""
    pipe = subprocess.PIPE if talks else None
    with log.open("a", encoding="utf-8") as errors:
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe or errors, stderr=errors, text=True)
        with process:
            try:
                yield process
            except BaseException:
                process.terminate()
                process.wait()
                raise


def _check(process: subprocess.Popen[str], what: str, log: Path) -> None:
    if process.returncode:
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), f"exit code {process.returncode}")
        raise RunError(f"{what} failed ({last}); see {log}")
