"""The ``noisesmith`` command."""

from __future__ import annotations

import sys
from io import TextIOWrapper
from typing import Annotated

import typer

from noisesmith.pipeline import __version__
from noisesmith.pipeline.cli import bench, embedded
from noisesmith.pipeline.cli.accept import accept
from noisesmith.pipeline.cli.bench_driver import bench_driver
from noisesmith.pipeline.cli.bench_gpu import bench_gpu
from noisesmith.pipeline.cli.calibrate import calibrate
from noisesmith.pipeline.cli.common import console, debug_print, options, print_error
from noisesmith.pipeline.cli.export import export
from noisesmith.pipeline.cli.look import replay, status, verify
from noisesmith.pipeline.cli.make import extend, retry, run
from noisesmith.pipeline.cli.merge import merge
from noisesmith.pipeline.cli.planning import plan
from noisesmith.pipeline.cli.publish import publish
from noisesmith.pipeline.cli.questions import questions
from noisesmith.pipeline.cli.report import report
from noisesmith.pipeline.cli.rescore import rescore
from noisesmith.pipeline.errors import RunError, UserError, full_traceback, one_line

BUG = (
    "This is probably a bug in noisesmith. What is written is safe: the same command resumes a run. "
    "Please report the lines above; a run's logs/run.jsonl has them too."
)

app = typer.Typer(
    help="Turn a list of prompts into a dataset of images that really show what their prompts say.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
MAKE = (run, extend, retry, merge, plan)
USE = (replay, verify, status, report, rescore, accept, calibrate, questions, export, publish)
for command in (*MAKE, *USE):
    app.command()(command)
app.add_typer(embedded.app, name="embedded")
bench.app.command("driver")(bench_driver)
bench.app.command("gpu")(bench_gpu)
app.add_typer(bench.app, name="bench")


def _version(value: bool) -> None:
    if value:
        console.print(f"noisesmith {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[  # noqa: ARG001 (its callback has read it)
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the full tracebacks of errors. Write it before the command.")
    ] = False,
) -> None:
    options.debug = debug


def main() -> None:
    """Run the command. A user's mistake prints one sentence on stderr and exits with 2."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that is not UTF-8 cannot print ×; that must not end a run
    options.debug = False
    try:
        app()
    except UserError as error:
        _debug(error)
        print_error(f"error: {one_line(error)}")
        sys.exit(2)
    except RunError as error:
        _debug(error)
        print_error(f"error: {one_line(error)}; what is written is safe, run the same command to resume")
        sys.exit(1)
    except Exception as error:
        error.add_note(BUG)  # Python prints the traceback and this note, and exits with 1
        raise


def _debug(error: BaseException) -> None:
    if options.debug:
        debug_print(full_traceback(error))
