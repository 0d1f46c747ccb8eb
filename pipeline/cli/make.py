"""``noisesmith run``, ``extend`` and ``retry``: make the rows of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from noisesmith.pipeline.cli.common import (
    ConfigPath,
    OutDir,
    Overrides,
    PartitionOption,
    RunDir,
    console,
    debug_print,
    interruptible,
    options,
    read_settings,
)
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.errors import RunError
from noisesmith.pipeline.storage.home import shell_word

if TYPE_CHECKING:
    from noisesmith.pipeline.records import CheckedCorpus
    from noisesmith.pipeline.sinks import RunState
    from noisesmith.pipeline.telemetry.tally import Tally


def run(config: ConfigPath, overrides: Overrides = None, out: OutDir = None, partition: PartitionOption = None) -> None:
    """Search an image for every prompt of the corpus and write the dataset.

    The same command resumes a run that has stopped.
    --partition 2/8 makes the second of eight parts of the dataset, in a directory of its own; merge joins them.
    Ctrl-C finishes the rows in flight and stops; a second Ctrl-C stops at once.
    """
    from noisesmith.pipeline.preflight import check_run
    from noisesmith.pipeline.sinks import hold_run

    settings = read_settings(config, overrides, out, partition)
    _, corpus = check_run(settings)
    with interruptible(), hold_run(settings, corpus, console.print) as state:
        _complete(settings, corpus, state, str(state.run_dir))


def extend(
    run_dir: RunDir,
    overrides: Overrides = None,
    below: Annotated[
        float | None,
        typer.Option("--below", metavar="SCORE", help="Continue the searches that ended below this score."),
    ] = None,
) -> None:
    """Add rows to a finished run: for new prompts, or further search rounds where the score is low.

    corpus.source=more.txt searches new prompts. --below 0.8 optimizer.rounds=30 continues searches, each in a new row,
    until they have taken 30 rounds in all. Rows and files that are there stay as they are. The same command resumes.
    """
    from noisesmith.pipeline.extend import find_extension

    found = find_extension(run_dir, overrides or [], below)
    with interruptible(), found.hold(console.print) as state:
        _complete(found.config, found.corpus, state, f"this part of {run_dir}")


def retry(run_dir: RunDir, overrides: Overrides = None) -> None:
    """Try failed rows of a run again, and make the rows that it still lacks.

    Overrides may change where and how fast rows are made, such as generators.batch_size=1.
    """
    from noisesmith.pipeline.extend import parts_to_make
    from noisesmith.pipeline.report import conclude
    from noisesmith.pipeline.sinks import hold_run, reopen_failed
    from noisesmith.pipeline.sinks.manifest import read_manifest

    last = read_manifest(run_dir).parts[-1].number
    committed = 0
    succeeded = []  # by part that lacked rows
    with interruptible():
        for settings, corpus in parts_to_make(run_dir, overrides or []):
            with hold_run(settings, corpus, console.print) as opened:
                state, again = reopen_failed(settings, corpus, opened)
                committed += state.committed
                another_follows = state.header.number < last
                if len(state.done) < corpus.size:
                    if again:
                        console.print(f"{again} failed rows are tried again")
                    succeeded.append(_drive(settings, corpus, state, another_follows=another_follows))
                elif not another_follows:  # the report is that of all parts
                    conclude(settings, state)
    if committed:
        console.print(f"shards that missed no row and are committed now: {committed}")
    elif not succeeded:
        console.print(f"no row of {run_dir} has failed; nothing to retry")
    if not all(succeeded):
        raise typer.Exit(1)


def _complete(settings: RunConfig, corpus: CheckedCorpus, state: RunState, what: str) -> None:
    """Make the rows that a run or a part of it lacks; where it lacks none, renew the report."""
    from noisesmith.pipeline.report import conclude

    if len(state.done) < corpus.size:
        if not _drive(settings, corpus, state):
            raise typer.Exit(1)
        return
    conclude(settings, state, console.print)
    console.print(f"all {corpus.size} rows of {what} are done; nothing to run")
    hint(state.run_dir)


def _drive(settings: RunConfig, corpus: CheckedCorpus, state: RunState, *, another_follows: bool = False) -> bool:
    """Make the rows that a part of a run lacks, and show how it went.

    Args:
        another_follows: there is a further part, so a signal stops the command also where this part came to its end.

    Returns:
        Whether any row succeeded.

    Raises:
        typer.Exit: a signal has stopped the command.
    """
    from noisesmith.actors.session import session
    from noisesmith.pipeline.report import summary_table
    from noisesmith.pipeline.telemetry.console import ConsoleProgress

    progress = ConsoleProgress(console)
    try:
        with progress:
            progress.start("starting Ray and loading models")
            with session(settings, progress.note) as runs:
                outcome, summary = runs.drive(settings, corpus, state, progress)
    except RunError:
        _debug_failures(progress.tally, state.run_dir)
        raise
    console.print(summary_table(summary))
    _debug_failures(progress.tally, state.run_dir)
    if not outcome.complete or (another_follows and runs.stopped):
        console.print("stopped; run the same command to resume")
        raise typer.Exit(runs.exit_code)
    failed = progress.tally.failed.total()
    if failed:
        console.print(
            f"{failed} rows failed; their errors and tracebacks are in {state.run_dir}/failed/\n"
            f"to try them again: noisesmith retry {shell_word(state.run_dir)}"
        )
        if not progress.tally.rows:
            return False
    hint(state.run_dir)
    return True


def _debug_failures(tally: Tally, run_dir: Path) -> None:
    """With ``--debug``, print the traceback of the commonest failure where rows of this session have failed."""
    from noisesmith.pipeline.telemetry.failures import commonest_traceback

    if not options.debug or not tally.failed:
        return
    traceback = commonest_traceback(run_dir)
    if traceback is not None:
        debug_print(f"traceback of the commonest failure:\n{traceback}")


def hint(run_dir: Path) -> None:
    """Print where the dataset is and what one may do with it next."""
    from noisesmith.pipeline.report.usage import open_command
    from noisesmith.pipeline.sinks.layout import unopenable

    problem = unopenable(run_dir)  # a run that an earlier version has started may be in such a folder
    first = open_command(run_dir) if problem is None else f"rename the folder: {problem}"
    console.print(f"dataset: {run_dir}\nnext: {first}\n      noisesmith verify {shell_word(run_dir)}")
