"""What operators can read of a run while it works and afterwards: ``stats.json`` and ``logs/run.jsonl``."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from noisesmith.pipeline.storage import files
from noisesmith.pipeline.telemetry.events import (
    ActorReplaced,
    BatchHalved,
    Event,
    RowFailed,
    RowRetried,
    RunEnded,
    Snapshot,
)
from noisesmith.pipeline.telemetry.tally import Tally

INTERVAL = 10.0  # seconds between two writes of stats.json
LOG_BYTES = 64 * 2**20  # of one log file; four older ones are kept
_LEVELS = {RowRetried: logging.WARNING, ActorReplaced: logging.WARNING, BatchHalved: logging.WARNING}


class Telemetry:
    """Takes a run's events, counts them, writes them down, and passes them on to ``others``.

    What cannot be written is left out: a run does not end for want of a log.
    """

    def __init__(self, run_dir: Path, settings: dict[str, Any], *others: Callable[[Event], None]) -> None:
        """``settings`` are figures for ``stats.json`` that stay as they are, such as the number of actors."""
        self._run_dir, self._settings, self._others = run_dir, settings, others
        self._logger = _logger(run_dir)
        self._started, self.tally = datetime.now(UTC), Tally()
        self._written = -INTERVAL
        self._now = Snapshot(0, {}, 0.0, 0.0)
        self._state, self._message = "running", ""

    def tell(self, event: Event) -> None:
        self._count(event)
        if not isinstance(event, Snapshot):
            name = re.sub("(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()
            failed = isinstance(event, RowFailed) or (isinstance(event, RunEnded) and event.state == "failed")
            level = logging.ERROR if failed else _LEVELS.get(type(event), logging.INFO)
            self._logger.log(level, name, extra={"fields": asdict(event)})
        for tell in self._others:
            tell(event)
        due = isinstance(event, Snapshot) and time.monotonic() - self._written >= INTERVAL
        if due or isinstance(event, RunEnded):
            self._write()
        if isinstance(event, RunEnded):
            for handler in self._logger.handlers:
                handler.close()

    def operations(self) -> dict[str, Any]:
        """The state of this session and what it has measured, ready for JSON; seconds and shares in [0, 1]."""
        tally, eta = self.tally, self.tally.eta_seconds
        return {
            "state": self._state,
            "message": self._message,
            "started": self._started.isoformat(timespec="seconds"),
            "updated": datetime.now(UTC).isoformat(timespec="seconds"),
            "rows": tally.total,
            "rows_done": tally.done,
            "seconds": round(tally.seconds, 3),
            "rows_written": tally.rows,
            "rows_failed": tally.failed.total(),
            "rows_failed_by_error": dict(tally.failed),
            "retries": tally.retries,
            "errors": dict(tally.errors),
            "rounds": tally.rounds,
            "scores": None if tally.scores is None else [round(score, 4) for score in tally.scores],
            "rows_per_minute": round(tally.rows_per_minute, 3),
            "eta_seconds": None if eta is None else round(eta),
            "in_flight": self._now.in_flight,
            "queues": self._now.queues,
            "busy_generators": round(self._now.busy_generators, 4),
            "busy_scorers": round(self._now.busy_scorers, 4),
            **self._settings,
        }

    def _count(self, event: Event) -> None:
        self.tally.count(event)
        match event:
            case RunEnded():
                self._state, self._message = event.state, event.message
            case Snapshot():
                self._now = event

    def _write(self) -> None:
        self._written = time.monotonic()
        for handler in self._logger.handlers:
            handler.flush()
        with suppress(OSError):
            content = json.dumps({"operations": self.operations()}, indent=2, ensure_ascii=False)
            files.write_atomic(self._run_dir / "stats.json", content.encode(errors="backslashreplace") + b"\n")


def _logger(run_dir: Path) -> logging.Logger:
    """A logger of its own whose lines are JSON."""
    logger = logging.Logger("noisesmith", logging.INFO)
    handler: logging.Handler
    if isinstance(run_dir, Path):
        with suppress(OSError):
            files.make_dir(run_dir / "logs")
        handler = _File(run_dir / "logs" / "run.jsonl", maxBytes=LOG_BYTES, backupCount=4, delay=True, encoding="utf-8")
    else:
        handler = _Objects(run_dir / "logs")
    handler.setFormatter(_Json())
    logger.addHandler(handler)
    return logger


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": when, "level": record.levelname, "event": record.getMessage(), **record.__dict__["fields"]}
        return files.json_line(line).decode().removesuffix("\n")


class _File(RotatingFileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        pass


class _Objects(logging.Handler):
    """A store takes whole objects only: one a session, written anew at each flush, and the next when it is large."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder, self._session, self._part = folder, datetime.now(UTC).strftime("%Y%m%dT%H%M%S"), 0
        self._lines: list[bytes] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self.format(record).encode() + b"\n")

    def flush(self) -> None:
        content = b"".join(self._lines)
        if not content:
            return
        with suppress(OSError):
            files.write_atomic(self._folder / f"run-{self._session}-{self._part:04}.jsonl", content)
            if len(content) > LOG_BYTES // 8:
                self._lines, self._part = [], self._part + 1

    def close(self) -> None:
        """Leave nothing to write: ``logging`` flushes once more at the end, when no store answers any more."""
        self._lines = []
        super().close()
