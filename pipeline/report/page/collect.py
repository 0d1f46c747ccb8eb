"""Reads a run for its page: figures of all rows, a sample of rows with pictures, failures, near-duplicates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from noisesmith.pipeline.acceptance import Acceptance, acceptance_lines, read_acceptance
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.duplicates import BITS, NEAR, near_duplicates
from noisesmith.pipeline.records import Provenance, index_of
from noisesmith.pipeline.report.card import notes_of, settings_of
from noisesmith.pipeline.report.figures import figures_of, read_operations
from noisesmith.pipeline.report.page.embed import to_json
from noisesmith.pipeline.report.page.failures import Failures, read_failures
from noisesmith.pipeline.report.page.pictures import Pictures, make_pictures
from noisesmith.pipeline.report.page.private import without_places
from noisesmith.pipeline.report.page.rows import RowColumns, columns_of_page, page_row, plain
from noisesmith.pipeline.report.page.thumbnails import LEAST, LIMIT
from noisesmith.pipeline.report.sample import SeededSample
from noisesmith.pipeline.report.summary import Row, Summary, labelled, summarise
from noisesmith.pipeline.sinks import config_of_run
from noisesmith.pipeline.sinks.location import reading
from noisesmith.pipeline.sinks.manifest import Manifest, read_manifest
from noisesmith.pipeline.sinks.working import read_finished
from noisesmith.pipeline.telemetry.status import Status, read_status

ROWS = 5_000  # on a page; of more, a sample
PAGE_BYTES = 95_000_000  # of rows and pictures on a page, which leaves room below 100 MB for the rest
_FIGURES = (  # of the last session, as it wrote them
    "seconds",
    "rows_written",
    "images_done",
    "rows_per_minute",
    "images_per_minute",
    "busy_generators",
    "busy_scorers",
    "generators",
    "scorers",
    "retries",
    "errors",
    "partitions",
)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Page:
    """What a page shows. ``data`` is ready for JSON; ``pictures`` has those of each of its rows, in their order."""

    data: dict[str, Any]
    pictures: list[Pictures]


class Collector:
    """Reads a run again and again, and makes each picture once.

    Args:
        location: how a command names the run; it is on the page.
        embedded: whether the pictures are part of the page, which has a limit; else each has the limit alone.
    """

    def __init__(self, run_dir: Path, location: str, *, embedded: bool = True) -> None:
        self._run_dir = run_dir
        self._location = location
        self._embedded = embedded
        self._pictures: dict[str, Pictures] = {}

    def pages(self, every: int, progress: Progress) -> Iterator[Page]:
        """Yield a page whenever ``every`` more rows have pictures, then the whole one.

        Args:
            progress: called with the number of pictured rows and of all rows on the page.

        Raises:
            UserError: the directory is no run or cannot be read, or something in it is missing or damaged.
        """
        with reading(self._run_dir):
            found = _read(self._run_dir)
        limit = self._limit(found)
        ids = [row["id"] for row in found.rows]
        missing = {row_id for row_id in ids if row_id not in self._pictures}
        known = len(ids) - len(missing)
        progress(known, len(ids))
        new_pictures = make_pictures(self._images(found, missing), limit)
        for fresh, (row_id, pictures) in enumerate(new_pictures, 1):
            self._pictures[row_id] = pictures
            progress(known + fresh, len(ids))
            if fresh % every == 0:
                yield self._page(found)
        yield self._page(found)

    def whole(self, progress: Progress) -> Page:
        """Return the page with all of its pictures; see :meth:`pages`."""
        *_, page = self.pages(ROWS, progress)
        return page

    def _images(self, found: _Found, missing: set[str]) -> Iterator[dict[str, Any]]:
        """Yield these rows' images, reading only shards that have one."""
        if not missing:
            return
        shards = {found.manifest.shard_of(index_of(row_id)) for row_id in missing}
        with reading(self._run_dir):
            for row in read_finished(self._run_dir, found.manifest, ["id", *found.columns.images()], shards):
                if row["id"] in missing:
                    yield row

    def _limit(self, found: _Found) -> int:
        """How many bytes a thumbnail may take so that the page keeps its limit, as base64."""
        if not self._embedded or not found.rows:
            return LIMIT
        text = sum(len(to_json(row)) for row in found.rows)
        pictures = len(found.rows) * len(found.columns.images())
        return max(LEAST, min(LIMIT, (PAGE_BYTES - text) * 3 // 4 // pictures))

    def _page(self, found: _Found) -> Page:
        rows = []
        pictures = []
        for row in found.rows:
            made = self._pictures.get(row["id"])
            if made is not None:
                rows.append(row)
                pictures.append(made)
        data = _data(found, self._location)
        data["rows"] = rows
        data["pending"] = len(found.rows) - len(rows)
        data["near"] = {"differing": NEAR, "bits": BITS}
        data["duplicates"] = near_duplicates([made.hash for made in pictures])
        return Page(data, pictures)


@dataclass(frozen=True)
class _Found:
    """What is in a run directory: figures of all rows, and the chosen ``rows`` as the page has them, without images."""

    config: RunConfig
    manifest: Manifest
    status: Status
    columns: RowColumns
    summary: Summary
    provenance: Provenance | None
    rows: list[dict[str, Any]]
    acceptance: Acceptance | None
    failures: Failures
    operations: dict[str, Any]


def _read(run_dir: Path) -> _Found:
    status = read_status(run_dir)
    config = config_of_run(run_dir)
    manifest = read_manifest(run_dir)
    columns = columns_of_page(config, manifest)
    figures = figures_of(config, manifest)
    shared = Provenance.columns_in(manifest.types)
    names = list(dict.fromkeys([*columns.small(), *figures.columns, *shared]))
    sample = SeededSample(ROWS)

    def sampled() -> Iterator[Row]:
        for row in read_finished(run_dir, manifest, names):
            sample.add(row)
            yield row

    summary = summarise(sampled(), figures.judges, figures.members)
    chosen = sample.rows()
    provenance = None
    if chosen:
        provenance = Provenance(**{name: chosen[0][name] for name in shared})
    return _Found(
        config=config,
        manifest=manifest,
        status=status,
        columns=columns,
        summary=summary,
        provenance=provenance,
        rows=[page_row(row, columns) for row in chosen],
        acceptance=read_acceptance(run_dir),
        failures=read_failures(run_dir, manifest),
        operations=read_operations(run_dir),
    )


def _data(found: _Found, location: str) -> dict[str, Any]:
    """What the page shows next to the rows."""
    config = found.config
    summary = found.summary
    return {
        "name": config.name,
        "state": found.status.state,
        "message": without_places(found.status.message, found.failures.hosts),
        "wanted": found.manifest.rows,
        "done": summary.rows,
        "sampled": summary.rows > len(found.rows),
        "method": config.optimizer.method,
        "description": config.optimizer.describe(),
        "replay": f"noisesmith replay {location}" if config.replayable else None,
        "changes": _changes(found),
        "curve": plain(summary.curve),
        "stops": summary.stop_reasons,
        "rounds": plain(summary.mean_rounds),
        "notes": notes_of(summary, found.manifest),
        "acceptance": _acceptance(found.acceptance),
        "settings": _settings(found),
        "columns": found.columns.extra,
        "has_first": found.columns.has_first,
        "failures": found.failures.to_dict(),
        "operations": plain({name: found.operations[name] for name in _FIGURES if name in found.operations}),
    }


def _changes(found: _Found) -> list[dict[str, Any]]:
    """The mean first and kept score of each scorer and judge, under the key that the rows have it by."""
    changes = []
    for key, (label, change) in zip(found.columns.scores, labelled(found.summary), strict=True):
        figures = None if change is None else plain(asdict(change))
        changes.append({"key": key, "label": label, "figures": figures})
    return changes


def _acceptance(found: Acceptance | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "rows": found.rows,
        "accepted": found.accepted,
        "reasons": found.reasons,
        "waiting": found.waiting,
        "lines": acceptance_lines(found),
    }


def _settings(found: _Found) -> list[list[str]]:
    if found.provenance is None:
        return []
    settings = []
    for name, value in settings_of(found.config, found.provenance, found.manifest):
        settings.append([name, without_places(str(value), found.failures.hosts)])
    return settings
