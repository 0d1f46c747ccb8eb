"""Small finished runs, written by the writer of real ones."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.records import Failure, NoiseStats, Provenance, Recipe, Result, Row
from noisesmith.pipeline.sinks import open_run
from tests.writing import RunWriter

PROVENANCE = Provenance("noise_diffusion", "embedded", "ab12", "embedded", "cd34", "yes", "ddim", 7.5, "")
HOSTILE = "a <b>cat</b> | [x](javascript:1) `car`\n# heading"


def png(colour: str, side: int = 64) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(buffer, "PNG")
    return buffer.getvalue()


def result(index: int) -> Result:
    """A row that went from 0.25 to 0.75 in two rounds; the judge saw nothing, then all of it."""
    return Result(
        row=Row(index, f"{index:06d}-abc", f"{HOSTILE} {index}", {"topic": "pets"}),
        image=png("#0000ff"),
        image_initial=png("#ff0000"),
        width=64,
        height=64,
        scores=(0.25, 0.5, 0.75),
        steps=(2, 2, 2),
        evaluations=(2.0, 2.0, 2.0),
        score=0.75,
        rounds=2,
        stop_reason="rounds",
        judges={"eye": (0.0, 1.0)},
        seed=7,
        recipe=Recipe("noise_diffusion", 7, (4, 16, 16), (1, 2), (0.5, 0.3), (3, 9), 50, 2, 1, "00"),
        noise=NoiseStats(0.0, 1.0, 1.0, 0.01),
    )


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., tuple[Path, RunConfig, Provenance]]:
    """``make_run(rows, failed=0, **config)`` gives a finished run's directory, config and provenance."""

    def make(rows: int, failed: int = 0, **changes: Any) -> tuple[Path, RunConfig, Provenance]:
        output = {"dir": str(tmp_path / "run"), "rows_per_shard": 5} | changes.pop("output", {})
        plain = {
            "name": "a_run",
            "corpus": {"source": "list.txt"},
            "judges": [{"name": "eye", "model": "embedded/judge"}],
        }
        config = RunConfig.model_validate(plain | changes | {"output": output})
        extra = pa.schema([("topic", pa.string())])
        corpus: Any = SimpleNamespace(
            first=0, size=rows + failed, whole=rows + failed, digest="0" * 64, extra_schema=extra
        )
        state = open_run(config, corpus)
        writer = RunWriter(state.run_dir, extra, corpus.size, PROVENANCE)
        for index in range(rows):
            writer.put(result(index))
        for index in range(rows, rows + failed):
            writer.fail(Failure(result(index).row, ({"error": "E", "message": "m", "where": "generate"},)))
        writer.finish()
        return state.run_dir, config, PROVENANCE

    return make
