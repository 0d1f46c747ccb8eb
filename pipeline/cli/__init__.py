"""The ``noisesmith`` command."""

from __future__ import annotations

import sys
from io import TextIOWrapper
from typing import Annotated

import typer
from rich.console import Console

from noisesmith.pipeline import __version__
from noisesmith.pipeline.cli import bench, embedded
from noisesmith.pipeline.cli.common import console
from noisesmith.pipeline.cli.look import replay, status, verify
from noisesmith.pipeline.cli.make import plan, retry, run
from noisesmith.pipeline.errors import RunError, UserError, one_line

app = typer.Typer(
    help="Turn a list of prompts into a dataset of images that really show what their prompts say.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (run, retry, plan, replay, verify, status):
    app.command()(command)
app.add_typer(embedded.app, name="embedded")
app.add_typer(bench.app, name="bench")


def _version(value: bool) -> None:
    if value:
        console.print(f"noisesmith {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command; a user's mistake is one line on stderr and exit code 2."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # where it is not UTF-8, a × must not end a run
    errors = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)
    try:
        app()
    except UserError as error:
        errors.print(f"error: {one_line(error)}")
        sys.exit(2)
    except RunError as error:
        errors.print(f"error: {one_line(error)}; what is written is safe, run the same command to resume")
        sys.exit(1)
