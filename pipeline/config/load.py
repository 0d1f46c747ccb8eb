"""Read configs from YAML and dotted overrides, and write them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from noisesmith.pipeline.config.errors import sentence
from noisesmith.pipeline.config.flat import without_positions
from noisesmith.pipeline.config.optimizers import METHODS
from noisesmith.pipeline.config.run import RunConfig
from noisesmith.pipeline.config.section import Actors
from noisesmith.pipeline.config.unique import KeyTwice, load_unique
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.storage.paths import given_path

# Fields that hold a path: an override's text is taken as it is, where YAML would read `#`, `: `, quotes and braces.
_PATHS = frozenset(
    {
        "corpus.source", "generators.model", "generators.config", "generators.lora.path",
        "scorers.model", "judges.model", "output.dir", "placement.calibration",
    }
)  # fmt: skip


def load_config(
    path: str | Path, overrides: list[str] | None = None, values: Mapping[str, object] | None = None
) -> RunConfig:
    """Read a YAML config and change some of its keys.

    Args:
        overrides: ``key=value`` texts with dotted keys and YAML values. The value of a path is taken as it is, except
            ``null`` and nothing, which set the field to null.
        values: dotted key to value, set last and taken as they are.

    With ``placement: auto`` the calibration next to the file is used, where there is one and no other is named.

    Raises:
        UserError: the file, a key or a value is wrong; the message names it.
    """
    path = given_path(path, "config")
    raw = read_yaml(path, "config", "see configs/ for ready ones")
    if not isinstance(raw, dict):
        raise UserError(f"{path}: must hold a mapping of sections such as corpus: and generators:")
    for override in overrides or []:
        _set(raw, *_parse_override(override))
    for key, value in (values or {}).items():
        _set(raw, key, value)
    config = validated(raw, str(path))
    placement = config.placement
    if placement.mode == "auto" and placement.calibration is None and calibration_file(path).exists():
        placement = placement.model_copy(update={"calibration": str(calibration_file(path))})
        config = config.model_copy(update={"placement": placement})
    return config


def calibration_file(path: Path) -> Path:
    """Where ``noisesmith plan --calibrate`` keeps what it measured for a config file: next to it."""
    return path.with_suffix(".calibration.json")


def read_yaml(path: Path, kind: str, remedy: str) -> Any:
    """Return the content of a YAML file.

    Args:
        kind, remedy: what the file should be, and what to do if there is none; both are used in messages.

    Raises:
        UserError: the file cannot be read or parsed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such {kind} file; {remedy}") from error
    except IsADirectoryError as error:
        raise UserError(f"{path}: is a directory, but a YAML {kind} file is needed") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; save the {kind} as UTF-8 text") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(text) > 1 << 20:  # parsing takes one second per megabyte
        raise UserError(f"{path}: has {len(text)} characters, more than any {kind}; give the YAML {kind} file")
    return parse_yaml(text, str(path))


def validated(raw: Any, where: str) -> RunConfig:
    """Return the config of plain sections, checked.

    Raises:
        UserError: a key or a value is wrong; the message begins with ``where`` and names it.
    """
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as error:
        problem = sentence(error, RunConfig, METHODS)
    # Raised outside the block, without the cause: its text repeats every input, and a few YAML aliases can name more
    # items than fit into any memory.
    raise UserError(f"{where}: {problem}")


def dump_config(config: RunConfig) -> str:
    """Return the resolved config as YAML. Read back, it gives an equal config.

    A batch size that ``placement: auto`` may choose stays open.
    """
    plain = config.model_dump(mode="json")
    if config.placement.mode == "auto":
        sides: list[tuple[Actors, dict[str, Any]]] = [(config.generators, plain["generators"])]
        if isinstance(config.scorers, tuple):
            sides += zip(config.scorers, plain["scorers"], strict=True)
        else:
            sides.append((config.scorers, plain["scorers"]))
        for section, values in sides:
            if "batch_size" not in section.model_fields_set:
                del values["batch_size"]
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def parse_yaml(text: str, where: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        UserError: it is not valid YAML, or names a key twice; the message begins with ``where``.
    """
    try:
        return load_unique(text)
    except KeyTwice as error:
        raise UserError(f"{where}: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", "cannot be parsed")
        raise UserError(f"{where}:{line} is not valid YAML ({problem}); check its indentation and quotes") from error
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits; an alias within itself
        raise UserError(f"{where}: is not valid YAML ({error})") from error


def _parse_override(override: str) -> tuple[str, object]:
    """Return the dotted key and the value of a ``key=value`` text."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"override {override!r}: write it as key=value, for example optimizer.rounds=10")
    if text not in ("", "null") and without_positions(key) in _PATHS:
        return key, text
    return key, parse_yaml(text, f"override {key}")


def _set(raw: dict[str, Any], key: str, value: object) -> None:
    """Set the value at a dotted key; sections on the way that are absent are created."""
    target: Any = raw
    *parents, last = key.split(".")
    for part in parents:
        step = _step(target, part, key)
        if isinstance(target, dict) and target.get(step) is None:
            target[step] = {}
        target = target[step]
    if not isinstance(target, dict | list):
        raise UserError(f"override {key}: {'.'.join(parents)} holds a single value, so it has no {last!r} to set")
    target[_step(target, last, key)] = value


def _step(target: object, part: str, key: str) -> Any:
    """Return the key or position that one part of an override's dotted key means in its section or list."""
    if not isinstance(target, list):
        if not isinstance(target, dict):
            raise UserError(f"override {key}: there is no section at {part!r} to set")
        return part
    if not part.isdigit() or int(part) >= len(target):
        raise UserError(f"override {key}: {part!r} is not an index of a list of {len(target)}; count from 0")
    return int(part)
