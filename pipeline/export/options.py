"""What an export is asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.export.images import IMAGE_FORMATS

FORMATS = ("imagefolder", "captions", "simpletuner", "webdataset", "dpo", "noise")
TRAIN = "train"
TWO_IMAGES = re.compile(r"(\d{1,6}),(?!\1$)(\d{1,6})")  # --pairs 0,3: images by their place in the column scores
SPLITS = ("val", "test")

# An option that only some formats have → these formats.
_ONLY = {
    "first_images": ("imagefolder",),
    "image_format": FORMATS[:-1],
    "image_quality": FORMATS[:-1],
    "rows_per_shard": ("webdataset",),
    "wids": ("webdataset",),
    "margin": ("dpo",),
    "pairs": ("dpo",),
    "noise_format": ("noise",),
}


@dataclass(frozen=True)
class ExportOptions:
    """The options of one export. ``None`` stands for an option that was not given.

    ``splits`` has the share of prompts of each split but train, each in (0, 1). ``by`` is the column that ranks images.
    """

    to: str
    out: Path
    where: str | None = None
    top_k: int | None = None
    by: str | None = None
    splits: dict[str, float] = field(default_factory=dict)
    balance: str | None = None
    drop_duplicates: bool = False
    seed: int = 0
    image_format: str | None = None
    image_quality: int | None = None
    first_images: bool = False
    rows_per_shard: int | None = None
    wids: bool = False
    margin: float | None = None
    pairs: str | None = None
    noise_format: str | None = None

    def __post_init__(self) -> None:
        """Refuse options that do not go together.

        Raises:
            UserError: an option is unknown to the format, or needs another one.
        """
        if self.to not in FORMATS:
            raise UserError(f"--to {self.to}: is no format of an export; use one of {', '.join(FORMATS)}")
        for name, formats in _ONLY.items():
            if getattr(self, name) not in (None, False) and self.to not in formats:
                option = "--" + name.replace("_", "-")
                raise UserError(f"{option}: is only for --to {' and '.join(formats)}; leave it out")
        if self.image_format is not None and self.image_format not in IMAGE_FORMATS:
            raise UserError(f"--image-format {self.image_format}: is not known; use {', '.join(IMAGE_FORMATS)}")
        if self.image_quality is not None and self.image_format in (None, "png"):
            raise UserError("--image-quality: PNG loses nothing; give it with --image-format jpeg or webp")
        if self.balance is not None and not self.splits:
            raise UserError("--balance: spreads the values of a column evenly over splits; give --split too")
        if self.noise_format not in (None, "npz", "safetensors"):
            raise UserError(f"--noise-format {self.noise_format}: is not known; use npz, safetensors")
        if self.pairs not in (None, "first", "worst") and not TWO_IMAGES.fullmatch(self.pairs):
            raise UserError(f"--pairs {self.pairs}: is not known; use first, worst, or two image numbers such as 0,3")
        if self.margin is not None and not 0 <= self.margin < float("inf"):
            raise UserError(f"--margin {self.margin}: is no difference of scores; write a number from 0 on")
        if self.by is not None and self.top_k is None and not self.drop_duplicates and self.to != "dpo":
            raise UserError("--by: ranks the images of a prompt; give --top-k too")

    @property
    def split_names(self) -> tuple[str, ...]:
        """The names of all splits, train first."""
        return (TRAIN, *self.splits)


def read_splits(texts: Sequence[str]) -> dict[str, float]:
    """Read ``NAME=SHARE`` options.

    Raises:
        UserError: a name is not known or given twice, or a share is no number between 0 and 1.
    """
    splits: dict[str, float] = {}
    for text in texts:
        name, _, share_text = text.partition("=")
        if name not in SPLITS or name in splits:
            raise UserError(f"--split {text}: write each of val and test once, as NAME=SHARE, such as val=0.02")
        try:
            share = float(share_text)
        except ValueError:
            share = 0.0
        if not 0 < share < 1:
            raise UserError(f"--split {text}: {share_text!r} is no share; write a number between 0 and 1")
        splits[name] = share
    if sum(splits.values()) >= 1:
        raise UserError("--split: the shares leave nothing for training; let them add up to less than 1")
    return splits
