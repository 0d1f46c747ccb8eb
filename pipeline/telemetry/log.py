"""What operators can read about a run while it works and afterwards: ``stats.json`` and ``logs/run.jsonl``."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path

from noisesmith.pipeline.storage import files
from noisesmith.pipeline.telemetry.events import (
    ActorReplaced,
    BatchHalved,
    Event,
    ModelsLoading,
    RowFailed,
    RowRetried,
    RunEnded,
    RunStarted,
    Snapshot,
    WorkersMoved,
)
from noisesmith.pipeline.telemetry.tally import Tally

INTERVAL = 10.0  # seconds between two writes of stats.json
LOG_BYTES = 64 * 2**20  # of one log file; four older ones are kept


class Telemetry:
    """Emits the events of a run: counts them in ``tally``, writes them to files and passes them to ``listeners``.

    Figures that cannot be written are dropped: a full disk must not end a run because of its log.
    """

    def __init__(
        self,
        run_dir: Path,
        settings: Mapping[str, int],
        *listeners: Callable[[Event], None],
        tally: Tally | None = None,
    ) -> None:
        """
        Args:
            settings: figures for ``stats.json`` that no event counts, such as the number of workers.
            tally: counts the events, before any listener sees them; a new one by default.
        """
        self.tally = Tally() if tally is None else tally
        self._run_dir = run_dir
        self._settings = settings
        self._listeners = listeners
        self._logger = _logger(run_dir)
        self._started = datetime.now(UTC)
        self._written = -INTERVAL
        self._snapshot = Snapshot(0, {}, 0.0, 0.0)
        self._state = "running"
        self._message = ""

    def emit(self, event: Event) -> None:
        """Count, log and pass on one event."""
        self.tally.count(event)
        self._note_state(event)
        if not isinstance(event, Snapshot):
            self._logger.log(_level(event), _name(event), extra={"fields": _fields(event)})
        for listener in self._listeners:
            listener(event)
        is_due = time.monotonic() - self._written >= INTERVAL
        if isinstance(event, ModelsLoading | RunEnded) or (isinstance(event, Snapshot) and is_due):
            self._write()
        if isinstance(event, RunEnded):
            for handler in self._logger.handlers:
                handler.close()

    def operations(self) -> dict[str, object]:
        """The state of this session and its figures, ready for JSON; times in seconds, shares in [0, 1]."""
        tally = self.tally
        eta = tally.eta_seconds
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
            "images_done": tally.images_done,
            "images_planned": tally.images_planned,
            "scores": None if tally.scores is None else [round(score, 4) for score in tally.scores],
            "rows_per_minute": round(tally.rows_per_minute, 3),
            "images_per_minute": round(tally.images_per_minute, 3),
            "eta_seconds": None if eta is None else round(eta),
            "in_flight": self._snapshot.in_flight,
            "queues": self._snapshot.queues,
            "busy_generators": round(self._snapshot.busy_generators, 4),
            "busy_scorers": round(self._snapshot.busy_scorers, 4),
            **self._settings,
        }

    def _note_state(self, event: Event) -> None:
        match event:
            case ModelsLoading():
                self._message = "loading models"
            case RunStarted():
                self._message = ""
            case RunEnded():
                self._state = event.state
                self._message = event.message
            case WorkersMoved():
                self._settings = {**self._settings, **event.by_side()}
            case Snapshot():
                self._snapshot = event

    def _write(self) -> None:
        self._written = time.monotonic()
        for handler in self._logger.handlers:
            handler.flush()
        with suppress(OSError):
            content = json.dumps({"operations": self.operations()}, indent=2, ensure_ascii=False)
            files.write_atomic(self._run_dir / "stats.json", content.encode(errors="backslashreplace") + b"\n")


def _name(event: Event) -> str:
    """The class name in snake case: RowWritten becomes row_written."""
    return re.sub("(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()


def _level(event: Event) -> int:
    match event:
        case RowFailed() | RunEnded(state="failed"):
            return logging.ERROR
        case RowRetried() | ActorReplaced() | BatchHalved():
            return logging.WARNING
        case _:
            return logging.INFO


def _fields(event: Event) -> dict[str, object]:
    """An event's fields under the names they have in the log; an empty traceback is left out."""
    fields: dict[str, object] = {}
    for name, value in asdict(event).items():
        if name == "stage":
            fields["where"] = value  # the name in the logs that earlier versions wrote
        elif name != "traceback" or value:
            fields[name] = value
    return fields


def _logger(run_dir: Path) -> logging.Logger:
    """A logger outside Python's logger tree, whose lines are JSON."""
    logger = logging.Logger("noisesmith", logging.INFO)  # noqa: LOG001 (outside the tree on purpose)
    handler: logging.Handler
    if isinstance(run_dir, Path):
        with suppress(OSError):
            files.make_dir(run_dir / "logs")
        handler = _LogFile(
            run_dir / "logs" / "run.jsonl", maxBytes=LOG_BYTES, backupCount=4, delay=True, encoding="utf-8"
        )
    else:
        handler = _LogObjects(run_dir / "logs")
    handler.setFormatter(_JsonFormatter())
    logger.addHandler(handler)
    return logger


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "event": record.getMessage(),
            **record.__dict__["fields"],
        }
        return files.json_line(line).decode().removesuffix("\n")


class _LogFile(RotatingFileHandler):
    """A log file on this machine; lines that cannot be written are dropped without a word on stderr."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        pass


class _LogObjects(logging.Handler):
    """A log in an object store, which takes whole objects only.

    Each flush writes the session's current object again; once the object is large, the next one starts.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._session = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        self._part = 0
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
                self._lines = []
                self._part += 1

    def close(self) -> None:
        """Drop the lines: ``logging`` flushes once more when Python exits, when no store answers any more."""
        self._lines = []
        self._part += 1  # lines that still come must not replace the object that holds the earlier ones
        super().close()
