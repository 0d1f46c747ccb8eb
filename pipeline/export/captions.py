"""``captions``: one flat folder of images with a caption file each, as trainers of LoRAs read it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from noisesmith.pipeline.export.format import Format
from noisesmith.pipeline.export.options import TRAIN

FOLDERS = {TRAIN: "images"}  # other splits have a folder of their own name


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
        self.size = (0, 0)  # width and height, the same in all rows of a run
        self._joined = 0
        for split in counts:
            (folder / FOLDERS.get(split, split)).mkdir()

    def add(self, row: Mapping[str, Any], split: str) -> str | None:
        caption = one_line(row["prompt"])
        if not caption:
            return "with an empty prompt"
        self.size = (row["width"], row["height"])
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

    def write_config(self) -> None:
        """Write the trainer's own file. kohya looks for ``.caption`` unless it is told another extension."""
        lines = [
            "[general]",
            'caption_extension = ".txt"',
            "",
            "[[datasets]]",
            f"resolution = [{self.size[0]}, {self.size[1]}]",
            "",
            "  [[datasets.subsets]]",
            f"  image_dir = {json.dumps(str(self.images), ensure_ascii=False)}",
            "  num_repeats = 1",
        ]
        (self.folder / "dataset.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")

    @property
    def images(self) -> Path:
        """The folder of training images, once the export has its name."""
        return self.options.out.absolute() / FOLDERS[TRAIN]

    def usage(self) -> str:
        return (
            f"kohya's sd-scripts: `--dataset_config={self.options.out}/dataset.toml`. OneTrainer: a concept with the "
            f"path `{self.images}` and captions from text files. ai-toolkit: `folder_path: {self.images}` and "
            "`caption_ext: txt`. "
            "`dataset.toml` names the folder by its full path: change it where the folder moves."
        )
