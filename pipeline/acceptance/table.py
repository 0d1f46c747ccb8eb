"""The side table ``accepted``: for every row whether it is accepted, and the first threshold that it fails."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from noisesmith.pipeline.acceptance.rule import rule_columns, verdict
from noisesmith.pipeline.config import AcceptConfig, RunConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.schema import ATOMS, row_schema
from noisesmith.pipeline.sinks import CheckLock, SideWriter, read_rows
from noisesmith.pipeline.sinks.manifest import Manifest, read_manifest
from noisesmith.pipeline.sinks.run import started_manifest

ACCEPTED = "accepted"
COLUMNS = pa.schema([("accepted", pa.bool_()), ("accept_reason", pa.string())])


@dataclass(frozen=True)
class Acceptance:
    """How many of ``rows`` a rule accepts; ``reasons`` counts the others by the first threshold that they fail.

    ``waiting`` counts the rows that were not evaluated yet.
    """

    rule: dict[str, Any]
    rows: int
    accepted: int
    reasons: dict[str, int]
    waiting: int

    def to_dict(self) -> dict[str, object]:
        """Plain values, ready for JSON."""
        return asdict(self)


def check_rule(rule: AcceptConfig, columns: Collection[str], field: str = "accept") -> None:
    """Refuse a rule that reads what a run does not have.

    Args:
        columns: of the run and its side tables.
        field: with which the message begins.

    Raises:
        UserError: it names a judge or questions that are not there.
    """
    for judge in rule.judges:
        if f"judge_{judge}" not in columns:
            raise UserError(
                f"{field}.judges.{judge}: the run has no judge of this name; list it in judges before the run is made, "
                f"or add it to the run with noisesmith rescore RUN --judge {judge}=MODEL"
            )
    if rule.atoms is not None and ATOMS not in columns:
        raise UserError(
            f"{field}.atoms: the run has no column {ATOMS}, since none of its scorers asks questions about the parts "
            "of a prompt; remove it"
        )


def check_config(config: RunConfig) -> None:
    """Refuse a config whose rule reads what its run will not have; side tables that are there count.

    Raises:
        UserError: as for :func:`check_rule`.
    """
    if config.accept is None:
        return
    columns: Collection[str] = row_schema(config, pa.schema([])).names
    manifest = started_manifest(config)
    if manifest is not None:
        columns = manifest.columns
    check_rule(config.accept, columns)


def rule_in_force(manifest: Manifest) -> AcceptConfig | None:
    """Return the rule by which the table was last written; ``None`` where there is no table.

    A shard that was opened again since still has the rule of before, which counts only where no shard has another one.
    """
    entries = [entry for entry in manifest.side.values() if entry.table == ACCEPTED]
    current = [entry for entry in entries if manifest.is_current(entry)]
    if not entries:
        return None
    return AcceptConfig.model_validate_json((current or entries)[-1].origin["rule"])


def accept(run_dir: Path, rule: AcceptConfig, check_lock: CheckLock) -> None:
    """Evaluate a rule on the committed rows, as the run's only writer.

    A shard is left alone where the same rule has been evaluated on the same judges' scores.

    Raises:
        UserError: the rule reads what the run does not have, or a shard cannot be read.
        RunError: the table cannot be written.
    """
    writer = SideWriter(run_dir, ACCEPTED, COLUMNS, check_lock)
    check_rule(rule, writer.manifest.columns)
    for shard in writer.filled():
        origin = _origin(writer.manifest, rule, shard)
        if writer.origin(shard) == origin:
            continue
        rows = []
        for row in writer.rows(shard, ["id", *rule_columns(rule)]):
            accepted, reason = verdict(rule, row)
            rows.append({"id": row["id"], "accepted": accepted, "accept_reason": reason})
        writer.put(shard, rows, origin)


def accept_again(
    run_dir: Path, config: RunConfig, check_lock: CheckLock, note: Callable[[str], None] | None = None
) -> None:
    """Evaluate the rule in force, where there is one: rows or judges may have come since.

    Args:
        note: given by a run, whose config's rule comes before the one in force; called with one sentence where it
            replaces that.

    Raises:
        UserError, RunError: as for :func:`accept`.
    """
    rule = rule_in_force(read_manifest(run_dir))
    if config.accept is not None and (rule is None or note is not None):
        if rule is not None and note is not None and rule != config.accept:
            note(
                f"the acceptance rule is now that of the config ({rule_text(config.accept)}); it was {rule_text(rule)}"
            )
        rule = config.accept
    if rule is not None:
        accept(run_dir, rule, check_lock)


def read_acceptance(run_dir: Path) -> Acceptance | None:
    """Count the accepted rows of a run and the reasons of the others; ``None`` where there is no rule.

    Raises:
        UserError: a file is missing or damaged.
    """
    rule = rule_in_force(read_manifest(run_dir))
    if rule is None:
        return None
    rows = accepted = waiting = 0
    reasons: Counter[str] = Counter()
    for row in read_rows(run_dir, ["accepted", "accept_reason"]):
        rows += 1
        if row["accepted"]:
            accepted += 1
        elif row["accepted"] is None:
            waiting += 1
        else:
            reasons[row["accept_reason"]] += 1
    plain = rule.model_dump(mode="json", exclude_none=True)
    return Acceptance(plain, rows, accepted, dict(reasons.most_common()), waiting)


def acceptance_lines(found: Acceptance) -> list[str]:
    """Return what a rule accepts and why it does not accept the others, one sentence per line."""
    share = found.accepted / found.rows if found.rows else 0.0
    lines = [
        f"{found.accepted} of {found.rows} images are accepted ({share:.1%}).",
        f"The rule: {rule_text(AcceptConfig.model_validate(found.rule))}.",
    ]
    if found.reasons:
        reasons = ", ".join(f"{reason} {count}" for reason, count in found.reasons.items())
        lines.append(f"The others fail first by: {reasons}.")
    if found.waiting:
        lines.append(f"{found.waiting} images were not evaluated yet; noisesmith accept evaluates them.")
    return lines


def rule_text(rule: AcceptConfig) -> str:
    """Return a rule in words."""
    parts = []
    if rule.score is not None:
        parts.append(f"score at least {rule.score:g}")
    parts += [f"judge {name} at least {least:g}" for name, least in rule.judges.items()]
    if rule.atoms is not None:
        parts.append(f"each question about a part of the prompt at least {rule.atoms:g}")
    return ", ".join(parts)


def _origin(manifest: Manifest, rule: AcceptConfig, shard: int) -> dict[str, str]:
    """The rule, and which file of each judge's side table it is evaluated on."""
    origin = {"rule": json.dumps(rule.model_dump(mode="json"), sort_keys=True)}
    for table, columns in manifest.side_columns.items():
        if any(name in columns for name in rule_columns(rule)):
            entry = manifest.current(table, shard)
            origin[table] = "" if entry is None else entry.sha256
    return origin
