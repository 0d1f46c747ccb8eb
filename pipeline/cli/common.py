"""What the commands share: arguments, output, checks of config and machine, and a clean end at a signal."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from noisesmith.pipeline.config import RunConfig, load_config
from noisesmith.pipeline.errors import UserError, printable
from noisesmith.pipeline.storage.paths import given_path, is_remote
from noisesmith.pipeline.telemetry.console import plain_console

console = plain_console()


def run_location(text: str) -> Path:
    return given_path(text, "RUN")


def local_path(text: str) -> Path:
    """A local path as a user types it: a shell leaves ``~`` to the command in ``--out=~/folder`` and within quotes.

    Raises:
        UserError: it is a URL, or ``~`` names no home folder.
    """
    path = given_path(text, text)
    if is_remote(path):
        raise UserError(f"{text}: must be on this machine; give a local path")
    return path


ConfigPath = Annotated[
    Path,
    typer.Argument(metavar="CONFIG", help="YAML config, such as configs/quickstart.yaml.", parser=local_path),
]
RunDir = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory, or its URL.", parser=run_location)]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Overrides, such as optimizer.rounds=10.")
]
PartitionOption = Annotated[
    str | None,
    typer.Option("--partition", metavar="I/N", help="Make only the shards of the I-th of N runs; merge joins them."),
]
OutDir = Annotated[str | None, typer.Option("--out", metavar="DIR", help="Run directory (output.dir).")]


@dataclass
class Options:
    """The options of the whole command, which stand before the name of a command."""

    debug: bool = False


options = Options()


def print_error(text: str) -> None:
    """Print to stderr, as it is at this moment: tests and notebooks replace it."""
    plain_console(stderr=True).print(text)


def debug_print(traceback: str) -> None:
    """Print a traceback to stderr, only with ``--debug``."""
    if options.debug:
        for line in traceback.splitlines():
            print_error(printable(line))


def read_settings(
    config: Path, overrides: list[str] | None, out: str | None, partition: str | None = None
) -> RunConfig:
    """The config in a file, with ``overrides`` and, where they are given, ``out`` as ``output.dir`` and a partition."""
    given = {"output.dir": out, "partition": partition}
    return load_config(config, overrides, {key: value for key, value in given.items() if value is not None})


@contextmanager
def interruptible(remedy: str = "run the same command to resume") -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, so that locks and workers are released; then exit with 128 + signal.

    Args:
        remedy: what to do next, at the end of the message.
    """

    def interrupt(number: int, _: FrameType | None) -> None:
        raise KeyboardInterrupt(128 + number)

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt as stopped:
        console.print(f"stopped at once; {remedy}")
        raise typer.Exit(stopped.args[0] if stopped.args else 128 + signal.SIGINT) from None
    except SystemExit as stopped:
        # While Ray starts, its own handler of SIGTERM exits with the number of the signal.
        console.print(f"stopped at once; {remedy}")
        raise typer.Exit(128 + stopped.args[0] if stopped.args else 128 + signal.SIGINT) from None
