"""Copies of the built-in models with one JSON file damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from random import Random
from typing import Any

from noisesmith.pipeline.embedded import weights
from tests.fuzz.mutations import alike, mutated_bytes, places, value

MODEL = "model"  # the folder of a case's damaged model
# What other versions of transformers write, and what published checkpoints lack or have.
PROCESSOR_KEYS = (
    "patch_size", "vision_feature_select_strategy", "num_additional_image_tokens", "image_token", "processor_class",
    "image_processor", "image_processor_type", "feature_extractor_type", "size", "crop_size", "image_mean", "resample",
    "chat_template", "do_pad", "image_seq_length",
)  # fmt: skip
CLASSES = (
    "LlavaProcessor", "LlavaNextProcessor", "CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPFeatureExtractor",
    "SiglipImageProcessor", "BitImageProcessor", "NoSuchProcessor", "CLIPProcessor", "AutoProcessor", "",
)  # fmt: skip


def damage_model(random: Random, config: dict[str, Any], folder: Path) -> None:
    """Let one section of a config name a damaged model."""
    section = random.choice(("generators", "generators", "scorers", "judges"))
    source = Path(weights({"generators": "sd", "scorers": "vlm", "judges": "judge"}[section]))
    copy = folder / MODEL
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("*.safetensors"))
    for tensors in source.rglob("*.safetensors"):
        (copy / tensors.relative_to(source)).symlink_to(tensors)
    if section == "scorers" and random.random() < 0.5:
        _change_processor(random, copy)
    else:
        _damage(random, random.choice([path for path in copy.rglob("*.json") if path.stat().st_size < 10_000]))
    if section == "judges":
        config["judges"] = [{"name": "eye", "model": MODEL}]
    else:
        config[section]["model"] = MODEL


def _change_processor(random: Random, copy: Path) -> None:
    """Change the processor's files: other keys, other classes, or the image processor in a file of its own."""
    path = copy / "processor_config.json"
    content: dict[str, Any] = json.loads(path.read_text())
    if random.random() < 0.4:
        (copy / "preprocessor_config.json").write_text(json.dumps(content.pop("image_processor")))
    parts = [content, content.get("image_processor", content)]
    for _ in range(random.randint(1, 3)):
        part = random.choice(parts)
        key = random.choice((*PROCESSOR_KEYS, *part))
        if random.random() < 0.5:
            part.pop(key, None)
        elif "class" in key or key.endswith("_type"):
            part[key] = random.choice(CLASSES)
        else:
            part[key] = alike(random, part[key]) if key in part else value(random)
    path.write_text(json.dumps(content))
    if random.random() < 0.1:
        path.unlink()


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
