"""The failed rows of a run as its page shows them: without tracebacks, paths and the names of machines."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noisesmith.pipeline.report.page.private import without_places
from noisesmith.pipeline.report.page.rows import TEXT_LIMIT, shortened
from noisesmith.pipeline.sinks.done import read_all_done
from noisesmith.pipeline.sinks.manifest import Manifest
from noisesmith.pipeline.telemetry.failures import read_dead_letters

LISTED = 200  # rows; the counts are of all
MESSAGE_LIMIT = 500  # characters


@dataclass(frozen=True)
class Failures:
    """Dead letters: counts by class of error, and the first ``LISTED`` rows.

    ``hosts`` are the machines whose workers had them; they are not on the page.
    """

    total: int
    errors: dict[str, int]
    rows: list[dict[str, Any]]
    hosts: frozenset[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {"total": self.total, "errors": self.errors, "rows": self.rows}


def read_failures(run_dir: Path, manifest: Manifest) -> Failures:
    """Read the dead letters of a run.

    Raises:
        UserError: a file of dead letters is damaged.
    """
    errors: Counter[str] = Counter()
    listed: list[dict[str, Any]] = []
    hosts: set[str] = set()
    for letter in read_dead_letters(run_dir, read_all_done(run_dir, manifest)):
        errors[letter["error"]] += 1
        for attempt in letter["attempts"]:
            host, _, _ = str(attempt.get("actor", "")).rpartition(":")
            hosts.add(host)
        if len(listed) < LISTED:
            listed.append(letter)
    known = frozenset(hosts - {""})
    rows = [_shown(letter, known) for letter in listed]
    return Failures(errors.total(), dict(errors.most_common()), rows, known)


def _shown(letter: dict[str, Any], hosts: frozenset[str]) -> dict[str, Any]:
    attempts = letter["attempts"]
    return {
        "id": letter["id"],
        "prompt": shortened(letter["prompt"], TEXT_LIMIT),
        "error": letter["error"],
        "message": shortened(without_places(letter["message"], hosts), MESSAGE_LIMIT),
        "stage": attempts[-1].get("where", "") if attempts else "",
        "attempts": len(attempts),
    }
