"""Small corpora and made-up results for the files of a run."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.noise import digest, replay
from noisesmith.pipeline.prompts import Corpus, open_corpus
from noisesmith.pipeline.records import Failure, NoiseStats, Provenance, Recipe, Result, Row
from noisesmith.pipeline.sinks import RunWriter, open_run

PROVENANCE = Provenance("noise_diffusion", "embedded", "ab12", "embedded", "cd34", "yes")
ROWS = 10
PER_SHARD = 4


def png(seed: int, size: tuple[int, int] = (8, 6)) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", size, (seed % 256, seed // 256 % 256, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def result(row: Row, score: float = 0.75) -> Result:
    """A finished row whose every value follows from its index, so that a remade row equals the first."""
    scores = (0.1 + row.index / 1000, score)
    recipe = Recipe("noise_diffusion", 7, (4, 8, 8), (1,), (0.1 + 0.2,), (row.index,), 50, 2, 8, "")
    return Result(
        row=row,
        image=png(row.index),
        image_initial=png(row.index + 1000),
        width=8,
        height=6,
        scores=scores,
        steps=(2, 2),
        evaluations=(2.0, 2.0),
        score=score,
        rounds=1,
        stop_reason="rounds",
        judges={"eye": (None, 0.1 + 0.2)},
        seed=2**63 - 1,
        recipe=replace(recipe, digest=digest(replay(recipe, row.id))),
        noise=NoiseStats(0.01, 1.0, 1.0, 1 / 3),
    )


def failure(row: Row, message: str = "out of memory") -> Failure:
    attempt = {
        "error": "OutOfMemoryError",
        "message": message,
        "traceback": f"Traceback: {message}",
        "where": "generate",
    }
    return Failure(row, (attempt, attempt))


class Run:
    """A corpus and config in a folder, opened and written as often as a test likes."""

    def __init__(self, folder: Path, lines: list[dict[str, Any]], **changes: Any) -> None:
        (folder / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        plain: dict[str, Any] = {
            "corpus": {"source": str(folder / "p.jsonl")},
            "judges": [{"name": "eye", "model": "embedded/judge"}],
        }
        output = {"dir": str(folder / "run"), "rows_per_shard": PER_SHARD} | changes.pop("output", {})
        self.config = RunConfig.model_validate(plain | changes | {"output": output})
        self.corpus: Corpus = open_corpus(self.config)
        self.dir = self.config.run_dir

    @property
    def rows(self) -> list[Row]:
        return list(self.corpus.rows())

    def writer(self) -> RunWriter:
        """A writer of a freshly opened or resumed run, as after a crash."""
        open_run(self.config, self.corpus)
        return RunWriter(self.dir, self.corpus.extra_schema, self.corpus.size, PROVENANCE)

    def write_all(self) -> Run:
        writer = self.writer()
        for row in self.rows:
            writer.put(result(row))
        return self


@pytest.fixture(autouse=True)
def no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here cuts the power, so none needs the disk's word."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Run]:
    """``make_run(rows=10, **config)``: a run of ten rows in shards of four, two of its prompts alike."""

    def make(rows: int = ROWS, **changes: Any) -> Run:
        lines = [{"prompt": "a cat" if n < 2 else f"prompt {n}", "topic": "pets", "n": n} for n in range(rows)]
        return Run(tmp_path, lines, **changes)

    return make
