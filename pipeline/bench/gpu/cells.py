"""What to measure, from a YAML file: pairs of a generator and a scorer, each at several batch sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from noisesmith.pipeline.bench.gpu.architectures import PIPELINES, SCORERS
from noisesmith.pipeline.bench.kinds import Section
from noisesmith.pipeline.config import RunConfig, read_yaml, validated
from noisesmith.pipeline.errors import UserError

CELLS = Path(__file__).with_name("cells.yaml")
_KEYS = ("name", "batches", "random_weights", "generators", "scorers")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,60}")
_ROUNDS = 100_000  # more than any measurement takes


@dataclass(frozen=True)
class Pair:
    """A generator and a scorer on one device.

    Attributes:
        batches: batch sizes to measure, in this order.
        random_weights: the models are built from published architectures, by the Hub ids that the sections name.
        generators, scorers: sections of a config, as the file has them.
    """

    name: str
    batches: tuple[int, ...]
    random_weights: bool
    generators: Section
    scorers: Section

    def config(self, batch: int, folders: Mapping[str, str]) -> RunConfig:
        """The config of a search in batches of ``batch`` by the paper's method, without early stop.

        Args:
            folders: where models are that stand here under another name.

        Raises:
            UserError: a section is wrong.
        """
        sections = {}
        for name, section in (("generators", self.generators), ("scorers", self.scorers)):
            model = section.get("model")
            placed = folders.get(model, model) if isinstance(model, str) else model
            sections[name] = section | {"model": placed, "batch_size": batch}
        optimizer = {"method": "noise_diffusion", "rounds": _ROUNDS}
        return validated({"name": "bench-gpu", "optimizer": optimizer, **sections}, f"cells of {self.name}")


@dataclass(frozen=True)
class Cell:
    """A pair at one batch size."""

    pair: Pair
    batch: int

    @property
    def name(self) -> str:
        return f"{self.pair.name}-b{self.batch}"


def read_pairs(path: Path) -> tuple[Pair, ...]:
    """The pairs of a YAML file, in its order.

    Raises:
        UserError: the file or an entry is wrong; the message names it.
    """
    raw = read_yaml(path, "cells", "leave it out to measure the built-in ones")
    if not isinstance(raw, list) or not raw:
        raise UserError(f"{path}: must be a list of entries with {', '.join(_KEYS)}")
    pairs: list[Pair] = []
    for number, entry in enumerate(raw, 1):
        pair = _pair(entry, f"{path}: entry {number}")
        if any(pair.name == other.name for other in pairs):
            raise UserError(f"{path}: entry {number} is the second one named {pair.name}; give it another name")
        pairs.append(pair)
    return tuple(pairs)


def cells_of(pairs: Sequence[Pair]) -> list[Cell]:
    """All cells, in the order in which they are measured."""
    return [Cell(pair, batch) for pair in pairs for batch in pair.batches]


def _pair(entry: object, where: str) -> Pair:
    if not isinstance(entry, dict):
        raise UserError(f"{where}: must be a mapping of {', '.join(_KEYS)}")
    for key in entry:
        if key not in _KEYS:
            raise UserError(f"{where}: {key!r} is unknown; use {', '.join(_KEYS)}")
    name = entry.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(f"{where}: name must be of small letters, digits, dots and dashes, but it is {name!r}")
    random_weights = entry.get("random_weights", False)
    if not isinstance(random_weights, bool):
        raise UserError(f"{where}: random_weights must be true or false, but it is {random_weights!r}")
    for key in ("generators", "scorers"):
        if not isinstance(entry.get(key), dict):
            raise UserError(f"{where}: {key} must be a section of a config, such as {{model: embedded}}")
    pair = Pair(name, _batches(entry.get("batches"), where), random_weights, entry["generators"], entry["scorers"])
    if random_weights:
        _check_published(pair, where)
    pair.config(1, {})
    return pair


def _batches(value: object, where: str) -> tuple[int, ...]:
    batches = value if isinstance(value, list) else []
    numbers = [batch for batch in batches if type(batch) is int and 1 <= batch <= 4096]
    if not numbers or len(numbers) < len(batches) or len(set(numbers)) < len(numbers):
        raise UserError(f"{where}: batches must be different numbers from 1 to 4096, such as [1, 8], but is {value!r}")
    return tuple(numbers)


def _check_published(pair: Pair, where: str) -> None:
    for key, section, known in (("generators", pair.generators, PIPELINES), ("scorers", pair.scorers, SCORERS)):
        if section.get("model") not in known:
            raise UserError(
                f"{where}: {key}.model {section.get('model')!r} has no architecture here to draw random weights for; "
                f"use {' or '.join(known)}, or set random_weights: false to load the model's own weights"
            )
