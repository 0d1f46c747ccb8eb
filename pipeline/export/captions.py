"""``captions``: one flat folder of images with a caption file each, as trainers of LoRAs read it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from noisesmith.pipeline.export.format import Format
from noisesmith.pipeline.export.options import TRAIN

FOLDERS = {TRAIN: "images"}  # other splits have a folder of their own name
# Trainers look for a relative folder in the directory they are started in, wherever their settings file lies.
STARTED_HERE = "Its paths are relative: start the trainer in this folder, or write full paths into the file."


def one_line(prompt: str) -> str:
    """Return a prompt as one line: of several, kohya reads the first, and OneTrainer and SimpleTuner any one."""
    lines = [line.strip() for line in prompt.splitlines()]
    return " ".join(line for line in lines if line)


class Captions(Format):
    """``images/ID.png`` and ``images/ID.txt``, and ``dataset.toml`` for kohya's scripts. No first images."""

    reads = ("id", "prompt", "image", "width", "height")
    consumers = "kohya's sd-scripts, OneTrainer and ai-toolkit"

    def open(self, folder: Path, counts: Mapping[str, int]) -> None:
        super().open(folder, counts)
        self.sizes: set[tuple[int, int]] = set()  # width and height of the images
        self._joined = 0
        for split in counts:
            (folder / FOLDERS.get(split, split)).mkdir()

    def add(self, row: Mapping[str, Any], split: str) -> str | None:
        caption = one_line(row["prompt"])
        if not caption:
            return "with an empty prompt"
        self.sizes.add((row["width"], row["height"]))
        self._joined += caption != row["prompt"]
        stem = self.folder / FOLDERS.get(split, split) / row["id"]
        with Path(f"{stem}.{self.encoder.extension}").open("xb") as image:
            image.write(self.encoder.encode(row["image"]))
        Path(f"{stem}.txt").write_bytes(caption.encode())
        return None

    def finish(self) -> None:
        if self._joined:
            self.notes.append(f"{self._joined} prompts with several lines, or spaces at their ends, became one line.")
        self.write_config()

    @property
    def largest(self) -> tuple[int, int]:
        """The width and height of the image with the most pixels."""
        return max(self.sizes, key=lambda size: (size[0] * size[1], size), default=(0, 0))

    def write_config(self) -> None:
        """Write the trainer's own file. kohya looks for ``.caption`` unless it is told another extension."""
        width, height = self.largest
        lines = [
            "[general]",
            'caption_extension = ".txt"',
            "",
            "[[datasets]]",
            f"resolution = [{width}, {height}]",
            *self._kohya_buckets(),
            "",
            "  [[datasets.subsets]]",
            f'  image_dir = "{FOLDERS[TRAIN]}"',
            "  num_repeats = 1",
        ]
        (self.folder / "dataset.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _kohya_buckets(self) -> list[str]:
        """Settings with which each image of several sizes is trained on as it is.

        Without upscaling, a bucket is the image's size, in steps, up to the area of ``resolution``.
        """
        if len(self.sizes) < 2:
            return []
        sides = [side for size in self.sizes for side in size]
        return ["enable_bucket = true", "bucket_no_upscale = true", f"bucket_reso_steps = {math.gcd(64, *sides)}"]

    def usage(self) -> str:
        images = self.options.out / FOLDERS[TRAIN]
        return (
            f"kohya's sd-scripts: `--dataset_config=dataset.toml`. {STARTED_HERE} OneTrainer: a concept with the path "
            f"`{images}` and captions from text files. ai-toolkit: `folder_path: {images}` and `caption_ext: txt`."
        )
