"""What the commands share: their arguments, a config and machine checked, and a run that can be interrupted."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from noisesmith.pipeline.config import RunConfig, load_config
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.storage.paths import to_path

if TYPE_CHECKING:
    from noisesmith.pipeline.preflight import FoundModels
    from noisesmith.pipeline.prompts import Corpus

console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML config, such as configs/quickstart.yaml")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="overrides, such as optimizer.rounds=10")
]
OutDir = Annotated[str | None, typer.Option("--out", metavar="DIR", help="run directory (output.dir)")]


def _place(text: str) -> Path:
    try:
        return to_path(text)
    except ValueError as error:
        raise UserError(f"RUN: {error}") from None


RunDir = Annotated[Path, typer.Argument(metavar="RUN", help="a run directory, or its URL", parser=_place)]


def read_settings(config: Path, overrides: list[str] | None, out: str | None) -> RunConfig:
    extra = [] if out is None else [f"output.dir={out!r}"]
    return load_config(config, [*(overrides or []), *extra])


def config_of_run(run_dir: Path, overrides: list[str] | None = None) -> RunConfig:
    """The config a run was made from, as it is to be read where the run lies now."""
    from noisesmith.pipeline.sinks.manifest import salvage_manifest

    salvage_manifest(run_dir)
    return read_settings(run_dir / "config.yaml", overrides, str(run_dir))


def check_machine(settings: RunConfig) -> None:
    from noisesmith.pipeline.preflight import check_resources, machine_resources

    if settings.ray.address is None:
        check_resources(settings, machine_resources(), "this machine")


def checked(settings: RunConfig) -> tuple[FoundModels, Corpus]:
    """The models and the corpus of a run, once all it needs is there."""
    from noisesmith.pipeline.preflight import find_models
    from noisesmith.pipeline.prompts import open_corpus

    models = find_models(settings)
    check_machine(settings)
    return models, open_corpus(settings)


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that what it holds is released."""

    def interrupt(number: int, _: FrameType | None) -> None:
        raise KeyboardInterrupt(128 + number)

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stopped:
        console.print("stopped at once; run the same command to resume")
        code = stopped.args[0] if stopped.args else 128 + signal.SIGINT
        # while Ray starts it exits by itself on SIGTERM, with the signal's number
        raise typer.Exit(code if isinstance(stopped, KeyboardInterrupt) else 128 + code) from None
