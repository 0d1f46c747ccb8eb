"""Small runs to export, made without models: what a row holds follows from its index."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL.Image
import pyarrow as pa
import pytest

from noisesmith.pipeline.export import Exported, ExportOptions, export
from noisesmith.pipeline.records import Result, Row
from noisesmith.pipeline.sinks import SideWriter, hold_side, read_rows
from noisesmith.pipeline.telemetry.console import search_progress
from tests.sinks.conftest import Run, result

SIZE = 32
TOPICS = ("animals", "tools", None)


def picture(seed: int) -> bytes:
    """A PNG of smooth random colours, unlike that of any other seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(coarse).resize((SIZE, SIZE), PIL.Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


def lines(rows: int) -> list[dict[str, Any]]:
    """A corpus in which every prompt stands twice, with a column that is sometimes null."""
    return [{"prompt": f"a cat and\n{n // 2} dogs", "topic": TOPICS[n % 3], "n": n} for n in range(rows)]


def finished(row: Row) -> Result:
    """A row with score index/100. The judge knows nothing of every fourth, and every fifth kept its first image."""
    made = result(row, score=row.index / 100)
    first = picture(1000 + row.index)
    judged = (None, None) if row.index % 4 == 3 else (0.25, (row.index % 10) / 10)
    return replace(
        made,
        image=first if row.index % 5 == 4 else picture(row.index),
        image_initial=first,
        width=SIZE,
        height=SIZE,
        scores=(0.05, row.index / 100),
        judges={"eye": judged},
    )


def write_run(
    folder: Path, corpus: list[dict[str, Any]], make: Callable[[Row], Result] = finished, **changes: Any
) -> Run:
    """A finished run over a corpus."""
    run = Run(folder, corpus, **changes)
    writer = run.writer()
    for row in run.rows:
        writer.put(make(row))
    return run


def add_table(run: Run, name: str, schema: pa.Schema, value: Callable[[int], dict[str, Any]], shards: int = 99) -> None:
    """Give the first shards of a run a side table, whose values follow from the position of a row."""
    ids = [row["id"] for row in read_rows(run.dir, ["id"])]
    with hold_side(run.dir, print) as lock:
        writer = SideWriter(run.dir, name, schema, lock)
        for shard in writer.filled()[:shards]:
            rows = [{"id": row["id"], **value(ids.index(row["id"]))} for row in writer.rows(shard, ["id"])]
            writer.put(shard, rows, {})


def write(run: Run, to: str, out: Path, **options: Any) -> Exported:
    """Export a run."""
    return export(run.dir, ExportOptions(to=to, out=out, **options), search_progress)


def same(left: Any, right: Any) -> bool:
    """Whether two values are equal, NaN equal to NaN."""
    both_nan = isinstance(left, float) and isinstance(right, float) and math.isnan(left) and math.isnan(right)
    return both_nan or left == right


@pytest.fixture(autouse=True)
def no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here cuts the power, so none needs the disk's word."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of 30 rows: 15 prompts with two rows each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        made = write_run(tmp_path_factory.mktemp("run"), lines(30))
        add_table(made, "accepted", pa.schema([("accepted", pa.bool_())]), lambda n: {"accepted": n > 9}, shards=6)
        return made
