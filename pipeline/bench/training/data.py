"""The pictures of the arms, read from ``noisesmith export`` as the trainers of others read them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from noisesmith.pipeline.bench.training.arms import Arm
from noisesmith.pipeline.bench.training.design import TrainingDesign
from noisesmith.pipeline.bench.training.selection import accepted, accepted_pair
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.export import ExportOptions, export
from noisesmith.pipeline.export.select import Progress

Note = Callable[[str], None]


@dataclass(frozen=True)
class Example:
    """What one optimizer step sees of one row: its prompt and one picture, or the better and the worse one of a pair.

    Pictures are ``[3, H, W]`` float32 in [0, 1].
    """

    prompt: str
    pictures: tuple[Tensor, ...]


@dataclass(frozen=True)
class Exports:
    """The folders that hold the pictures of the arms, and how many different pictures each arm is given."""

    pictures: Path
    accepted: Path
    pairs: Path
    count: int


def write_exports(design: TrainingDesign, progress: Progress, note: Note) -> Exports:
    """Export what the arms are trained on, unless it is there, and count what all of them have.

    Raises:
        UserError: an arm has too few pictures.
    """
    folder = design.out / "exports"
    run_dir = design.config.run_dir
    wanted = {
        "pictures": ExportOptions(to="imagefolder", out=folder / "pictures", first_images=True),
        "accepted": ExportOptions(to="imagefolder", out=folder / "accepted", where=accepted(design.rule)),
        "pairs": ExportOptions(to="dpo", out=folder / "pairs", where=accepted_pair(design.rule)),
    }
    for name, options in wanted.items():
        if not options.out.is_dir():
            note(f"exported {_exported(run_dir, options, progress)} rows as {name}")
    return _counted(design, Exports(folder / "pictures", folder / "accepted", folder / "pairs", 0))


def _exported(run_dir: Path, options: ExportOptions, progress: Progress) -> int:
    """Write one export, and return its number of rows."""
    try:
        return export(run_dir, options, progress).rows["train"]
    except UserError as error:
        if options.where is None:
            raise
        raise UserError(f"{options.out.name}, which accept selects: {error}") from None


def _counted(design: TrainingDesign, exports: Exports) -> Exports:
    """The exports, with the number of pictures that every arm is given."""
    found = {
        "images": len(_ids(exports.pictures, "imagefolder")),
        "accepted images": len(_ids(exports.accepted, "imagefolder")),
        "pictures in pairs": 2 * len(_ids(exports.pairs, "dpo")),
    }
    least = min(found, key=lambda name: found[name])
    count = found[least]
    if design.options.pictures is not None:
        if count < design.options.pictures:
            raise UserError(
                f"--pictures: the run has only {count} {least}, and every arm is given equally many; lower it, or "
                "search more prompts"
            )
        count = design.options.pictures
    if count < 2:
        raise UserError(f"accept: the run has only {count} {least}; lower the thresholds, or search more prompts")
    return replace(exports, count=count - count % 2)


def examples_of(arm: Arm, exports: Exports) -> Iterator[Example]:
    """The examples of an arm: as many different pictures as every other arm has, chosen by a hash of the rows' ids.

    So two arms that choose among the same rows are trained on the same prompts.
    """
    if arm.of_pairs:
        for row in _chosen(exports.pairs, "dpo", exports.count // 2):
            yield _pair(row)
        return
    folder = exports.accepted if arm.pictures == "accepted" else exports.pictures
    column = "image_initial" if arm.pictures == "first" else "image"
    for row in _chosen(folder, "imagefolder", exports.count):
        yield Example(row["text"], (_pixels(row[column]),))


def _pair(row: dict[str, Any]) -> Example:
    """A row of the DPO export, as the scripts take it: label 0 swaps the pictures."""
    pictures = [_pixels(Image.open(io.BytesIO(row[name]))) for name in ("jpg_0", "jpg_1")]
    if row["label_0"] == 0:
        pictures.reverse()
    return Example(row["caption"], tuple(pictures))


def _chosen(folder: Path, form: str, count: int) -> Iterator[dict[str, Any]]:
    ids = _ids(folder, form)
    order = sorted(range(len(ids)), key=lambda position: hashlib.blake2b(ids[position].encode()).digest())
    rows = _load(folder, form)
    for position in order[:count]:
        yield rows[position]


def _ids(folder: Path, form: str) -> Sequence[str]:
    found: Sequence[str] = list(_load(folder, form)["id"])
    return found


def _load(folder: Path, form: str) -> Any:
    """An export as the data set that ``datasets`` makes of it; its cache lies next to the exports."""
    import datasets

    datasets.disable_progress_bars()  # they would stand between the lines of the command
    options = {"split": "train", "cache_dir": str(folder.parent / "cache")}
    if form == "imagefolder":
        return datasets.load_dataset("imagefolder", data_dir=str(folder), **options)
    return datasets.load_dataset(str(folder), **options)


def _pixels(image: Image.Image) -> Tensor:
    array = np.array(image.convert("RGB"))
    return torch.from_numpy(array).permute(2, 0, 1).float() / 255
