"""``noisesmith report``: a run as one HTML page that needs no network, or served while the run works."""

from __future__ import annotations

from pathlib import Path

from noisesmith.pipeline.errors import UserError, reason
from noisesmith.pipeline.report.page.collect import Collector, Page, Progress
from noisesmith.pipeline.report.page.embed import render
from noisesmith.pipeline.report.page.live import LiveReport
from noisesmith.pipeline.storage.files import write_atomic

__all__ = ["LiveReport", "Page", "write_page"]


def write_page(run_dir: Path, target: Path, location: str, progress: Progress) -> Page:
    """Write the page of the rows that a run has finished so far.

    Args:
        target: the file, which appears whole or not at all.
        location: how a command on the page names the run.
        progress: called with the number of rows whose pictures are made and of all rows on the page.

    Raises:
        UserError: ``run_dir`` is no run, something in it is missing or damaged, or ``target`` cannot be written.
    """
    collector = Collector(run_dir, location)
    page = collector.whole(progress)
    html = render(page.data["name"], page.data, page.pictures, live=False)
    try:
        write_atomic(target, html.encode())
    except OSError as error:
        raise UserError(f"--out: {target} cannot be written ({reason(error)}); give another file") from error
    return page
