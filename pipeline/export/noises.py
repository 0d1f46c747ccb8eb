"""``noise``: the first and the kept noise of each prompt, rebuilt from the recipes, to train a model of good noises."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.export.columns import metadata_columns, plain
from noisesmith.pipeline.export.format import Format
from noisesmith.pipeline.export.options import ExportOptions
from noisesmith.pipeline.export.source import Source
from noisesmith.pipeline.noise import NoiseKey, digest, rebuild
from noisesmith.pipeline.records import Recipe, index_of
from noisesmith.pipeline.schema import NOISE_BYTES
from noisesmith.pipeline.sinks import config_of_run

PER_FOLDER = 10_000
FILE_BYTES = 256 * 2**20
FILE_PAIRS = 10_000  # small tensors need more memory for themselves than for their numbers


class Noises(Format):
    """``SPLIT/noises/00000/ID.npz`` and ``SPLIT/prompts.json`` as NPNet reads them, or safetensors with metadata.

    Noises are float32, as the search drew them, before a scheduler scales them. A kept noise whose digest is not that
    of its recipe is left out.
    """

    consumers = "the training script of NPNet (Golden Noise)"

    def __init__(self, source: Source, options: ExportOptions) -> None:
        super().__init__(source, options)
        if not config_of_run(source.run_dir).replayable:
            raise UserError(
                f"--to noise: the method of {source.run_dir} has no recipe for its noise, and output.noise was false; "
                "make a run with output.noise=true"
            )
        self._manifest = source.manifest
        self._types = source.columns
        self._columns = [n for n in metadata_columns(self._types) if n not in ("recipe", "noise")]
        self.reads = ["prompt", "recipe", *self._columns]
        if NOISE_BYTES in self._types:
            self.reads.append(NOISE_BYTES)
        self._as_npz = options.noise_format in (None, "npz")

    def open(self, folder: Path, counts: Mapping[str, int]) -> None:
        super().open(folder, counts)
        self._writers = {}
        for split in counts:
            (folder / split).mkdir()
            self._writers[split] = (
                NpzFiles(folder / split) if self._as_npz else TensorFiles(folder / split, self._metadata)
            )

    def add(self, row: Mapping[str, Any], split: str) -> str | None:
        recipe = Recipe.from_row(row["recipe"])
        if self._manifest.search_id(row["id"]) != row["id"]:
            return "that continue the search of another row, so that their first score is not that of the first noise"
        first = NoiseKey(recipe.seed, row["id"], 0).draw(0, recipe.shape)
        kept = rebuild(recipe, row["id"], row.get(NOISE_BYTES))
        if digest(kept) != recipe.digest:
            return "whose noise is not that of its recipe"
        self._writers[split].add(row, first, kept)
        return None

    def _metadata(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return {name: plain(row[name], self._types[name]) for name in self._columns}

    def finish(self) -> None:
        for writer in self._writers.values():
            writer.close()

    def usage(self) -> str:
        out = self.options.out
        if self._as_npz:
            return (
                f"NPNet: `main.py --train True --pick True --all-file True --data-dir {out}/train/noises --prompt-path "
                f"{out}/train/prompts.json`. `arr_0` is the first noise, `arr_1` the kept one, both `[1, C, H, W]` "
                "float32, and `arr_2` the index of the prompt."
            )
        return (
            f"`safetensors.torch.load_file('{out}/train/00000.safetensors')` has `first` and `kept`, `[N, C, H, W]` "
            "float32. `metadata.jsonl` has one line per pair: `file`, `position`, `text`, scores and the other columns."
        )


class NpzFiles:
    """One ``.npz`` per pair, in folders of at most :data:`PER_FOLDER`, and one line per pair in ``prompts.json``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "noises"
        self._folder.mkdir()
        self._written = 0
        self._prompts = (folder / "prompts.json").open("x", encoding="utf-8")

    def add(self, row: Mapping[str, Any], first: Tensor, kept: Tensor) -> None:
        """Write one pair. NPNet evaluates a line as Python, so it holds texts and numbers only."""
        index = index_of(row["id"])
        folder = self._folder / f"{self._written // PER_FOLDER:05d}"
        folder.mkdir(exist_ok=True)
        np.savez(folder / f"{row['id']}.npz", first[None].numpy(), kept[None].numpy(), np.array(index))
        line = {
            "index": index,
            "caption": row["prompt"],
            "seed": row["recipe"]["seed"],
            "id": row["id"],
            "original_score_list": [row["score_initial"]],
            "optimized_score_list": [row["score"]],
        }
        self._prompts.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._written += 1

    def close(self) -> None:
        self._prompts.close()


class TensorFiles:
    """Pairs in safetensors files of at most about :data:`FILE_BYTES`, with one line per pair in ``metadata.jsonl``.

    The noises of a file have one shape.

    Args:
        metadata: what a line has of a row, besides the place of its noises and its prompt.
    """

    def __init__(self, folder: Path, metadata: Callable[[Mapping[str, Any]], dict[str, Any]]) -> None:
        self._folder = folder
        self._metadata_of = metadata
        self._files = 0
        self._open: dict[torch.Size, _Pairs] = {}  # not yet written, by the noises' shape
        self._metadata = (folder / "metadata.jsonl").open("x", encoding="utf-8")

    def add(self, row: Mapping[str, Any], first: Tensor, kept: Tensor) -> None:
        pairs = self._open.get(first.shape)
        if pairs is None:
            pairs = self._open[first.shape] = _Pairs(f"{self._files:05d}.safetensors")
            self._files += 1
        place = {"file": pairs.file, "position": len(pairs.first), "text": row["prompt"]}
        self._metadata.write(json.dumps({**self._metadata_of(row), **place}, ensure_ascii=False) + "\n")
        pairs.first.append(first)
        pairs.kept.append(kept)
        if len(pairs.first) >= FILE_PAIRS:
            self._write(first.shape)
        elif sum(held.bytes for held in self._open.values()) >= FILE_BYTES:
            self._write(max(self._open, key=lambda shape: self._open[shape].bytes))

    def close(self) -> None:
        for shape in list(self._open):
            self._write(shape)
        self._metadata.close()

    def _write(self, shape: torch.Size) -> None:
        pairs = self._open.pop(shape)
        tensors = {"first": torch.stack(pairs.first), "kept": torch.stack(pairs.kept)}
        save_file(tensors, str(self._folder / pairs.file))


@dataclass(frozen=True)
class _Pairs:
    """The noises that go into one file."""

    file: str
    first: list[Tensor] = field(default_factory=list)
    kept: list[Tensor] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        return 2 * len(self.first) * self.first[0].nbytes
