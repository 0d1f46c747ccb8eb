"""Copies of the built-in models with one JSON file damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from random import Random
from typing import Any

from noisesmith.pipeline.embedded import weights
from tests.fuzz.mutations import alike, mutated_bytes, places, value


def damage_model(random: Random, config: dict[str, Any], folder: Path) -> None:
    """Let one section of a config name a damaged model."""
    section = random.choice(("generators", "generators", "scorers", "judges"))
    source = Path(weights({"generators": "sd", "scorers": "vlm", "judges": "judge"}[section]))
    copy = folder / "model"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("*.safetensors"))
    for tensors in source.rglob("*.safetensors"):
        (copy / tensors.relative_to(source)).symlink_to(tensors)
    _damage(random, random.choice([path for path in copy.rglob("*.json") if path.stat().st_size < 10_000]))
    if section == "judges":
        config["judges"] = [{"name": "eye", "model": "model"}]
    else:
        config[section]["model"] = "model"


def _damage(random: Random, path: Path) -> None:
    if random.random() < 0.2:
        path.write_bytes(mutated_bytes(random, path.read_bytes()))
        return
    tree = json.loads(path.read_text())
    owner, key = random.choice(list(places(tree)))
    if random.random() < 0.3:
        del owner[key]
    else:
        owner[key] = value(random) if random.random() < 0.4 else alike(random, owner[key])
    path.write_text(json.dumps(tree))
