"""``noisesmith report``: a run as an HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from noisesmith.pipeline.cli.common import RunDir, console, local_path
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.storage.home import shell_word
from noisesmith.pipeline.storage.paths import is_remote

Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", help="Where to write the page (RUN/report.html).", parser=local_path),
]
Live = Annotated[bool, typer.Option("--live", help="Serve the page on this machine, and follow the run.")]
Port = Annotated[
    int | None, typer.Option("--port", metavar="N", min=1, max=65535, help="Port of --live; any free one by default.")
]


def report(run_dir: RunDir, out: Out = None, live: Live = False, port: Port = None) -> None:
    """Write a run as one HTML page with its figures and pictures, which opens from disk without a network.

    The run may still work. With --live the page is served on 127.0.0.1 and follows the run until Ctrl-C.
    """
    if live and out is not None:
        raise UserError("--out: --live writes no file; leave one of them out")
    if port is not None and not live:
        raise UserError("--port: is for --live; add --live, or leave it out")
    if live:
        _serve(run_dir, port or 0)
    else:
        _write(run_dir, out)


def _write(run_dir: Path, out: Path | None) -> None:
    from noisesmith.pipeline.report.page import write_page

    target = out or _default_target(run_dir)
    columns = (TextColumn("pictures"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("pictures", total=None)
        page = write_page(
            run_dir, target, _shared_name(run_dir), lambda made, rows: bar.update(task, completed=made, total=rows)
        )
    megabytes = target.stat().st_size / 1e6
    shown = len(page.data["rows"])
    rows = f"{shown} rows" if not page.data["sampled"] else f"{shown} of {page.data['done']} rows, chosen at random"
    console.print(f"{target}: {rows}, {megabytes:.1f} MB; open it in a browser")


def _serve(run_dir: Path, port: int) -> None:
    from noisesmith.pipeline.report.page import LiveReport

    try:
        with LiveReport(run_dir, shell_word(run_dir), port) as server:
            console.print(f"{server.url} follows {run_dir}; Ctrl-C ends it")
            server.follow()
    except KeyboardInterrupt:
        console.print("stopped serving")


def _default_target(run_dir: Path) -> Path:
    return Path(f"{run_dir.name}.html") if is_remote(run_dir) else run_dir / "report.html"


def _shared_name(run_dir: Path) -> str:
    """How a page that may be passed on names its run: as it was typed, but never by an absolute path."""
    if is_remote(run_dir):
        return run_dir.name
    if not run_dir.is_absolute():
        return shell_word(run_dir)
    try:
        return shell_word(run_dir.relative_to(Path.cwd()))
    except ValueError:  # it lies elsewhere
        return shell_word(Path(run_dir.name))
