"""Small corpora and made-up results for the files of a run."""

from __future__ import annotations

import io
import itertools
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import PIL.Image
import pytest

from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.models.locate import locate
from noisesmith.pipeline.noise import digest, replay
from noisesmith.pipeline.prompts import Corpus, open_corpus
from noisesmith.pipeline.records import Failure, NoiseStats, Provenance, Recipe, Result, Row
from noisesmith.pipeline.sinks import open_run
from noisesmith.pipeline.storage import paths as stores
from tests.writing import RunWriter

if TYPE_CHECKING:
    from tests.s3 import S3

PROVENANCE = Provenance(
    "noise_diffusion",
    "embedded",
    locate("embedded", None, "generators.model", "model_index.json").resolved_revision(),
    "embedded",
    locate("embedded", None, "scorers.model", "config.json").resolved_revision(),
    "yes",
    "ddim",
    7.5,
    "",
)
BUCKETS = itertools.count()
ROWS = 10
PER_SHARD = 4
COLUMNS = [
    "id",
    "prompt",
    "image",
    "image_initial",
    "score",
    "score_initial",
    "scores",
    "steps",
    "evaluations",
    "rounds",
    "stop_reason",
    "judge_eye_initial",
    "judge_eye",
    "parent_id",
    "run_seed",
    "recipe",
    "noise",
    "optimizer",
    "generator",
    "generator_revision",
    "scorer",
    "scorer_revision",
    "readout",
    "scheduler",
    "guidance_scale",
    "negative_prompt",
    "width",
    "height",
    "prompt_tokens_cut",
    "image_sha256",
    "image_initial_sha256",
    "topic",
    "n",
]


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


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    import s3fs

    from tests.s3 import S3

    server = S3()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", server.url)
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield server
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture
def url(s3: S3) -> str:
    return f"s3://{s3.make_bucket(f'bucket-{next(BUCKETS)}')}/some/run"


def set_client(monkeypatch: pytest.MonkeyPatch, attempts: int, **others: Any) -> None:
    """Let botocore try each request so often."""
    config = {"retries": {"mode": "standard", "total_max_attempts": attempts}, **others}
    monkeypatch.setitem(stores.STORES, "s3", stores.STORES["s3"]._replace(options={"config_kwargs": config}))


WITH_FIRST = {"tar_image_initial": True}  # output settings with which each format alone holds a whole row


def names(run: Run) -> set[str]:
    return {str(path.relative_to(run.dir)) for path in run.dir.rglob("*") if path.is_file()}
