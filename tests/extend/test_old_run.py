"""A run that an older version began is extended in its own format."""

from __future__ import annotations

import shutil
from pathlib import Path

import datasets
import pytest

from noisesmith.pipeline.config import RunConfig, load_config
from noisesmith.pipeline.extend import open_parts
from noisesmith.pipeline.prompts import open_corpus
from noisesmith.pipeline.report import rewrite_report
from noisesmith.pipeline.sinks import open_run, read_rows, started_corpus, verify_run
from noisesmith.pipeline.sinks.manifest import read_manifest
from noisesmith.pipeline.storage.files import sha256_of
from tests.extend.conftest import extend_dir, made
from tests.sinks.conftest import PROVENANCE
from tests.sinks.test_old_run import MODELS
from tests.writing import RunWriter

OLD = Path(__file__).parents[1] / "data" / "old_run"


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """A copy of the old run, made to its end, in the current folder, since its corpus has a relative path."""
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    config = load_config("config.yaml")
    corpus = open_corpus(config, started_corpus(config))
    state = open_run(config, corpus)
    writer = RunWriter(config.run_dir, corpus.extra_schema, corpus.size, PROVENANCE)
    for row in corpus.rows(skip=state.done):
        writer.put(made(row))
    return config


def test_it_keeps_its_format_and_files(old: RunConfig) -> None:
    run_dir = old.run_dir
    before = {path: sha256_of(path) for path in run_dir.glob("data/*")}
    rows = list(read_rows(run_dir))
    Path("more.csv").write_text("image_id,prompt,weight,caption_id\n21,a blue door,0.25,1007\n")
    extend_dir(run_dir, ["corpus.source=more.csv"])
    extend_dir(run_dir, ["optimizer.rounds=9"], below=1)

    assert before.items() <= {path: sha256_of(path) for path in run_dir.glob("data/*")}.items()
    manifest = read_manifest(run_dir)
    assert manifest.header.version == 6
    assert [part.version_of_rows for part in manifest.parts] == [1, 1, 1]
    assert not (run_dir / "tars").exists()
    assert verify_run(run_dir, range(14)) == []
    now = list(read_rows(run_dir))
    assert [{name: row[name] for name in rows[0]} for row in now[:6]] == rows
    assert [row["parent_id"] for row in now] == [None] * 7 + [row["id"] for row in now[:7]]
    assert [row["image_id"] for row in now] == [9, 11, 12, 14, 15, 20, 21] * 2


def test_its_models_are_named_as_today(old: RunConfig) -> None:
    """A run of version 1 of the built-in models goes on with these, under the names that they have now."""
    Path("more.csv").write_text("image_id,prompt,weight,caption_id\n21,a blue door,0.25,1007\n")
    for _ in range(2):
        extend_dir(old.run_dir, ["corpus.source=more.csv", *MODELS])
    assert [part.rows for part in read_manifest(old.run_dir).parts] == [6, 1]
    assert len(open_parts(old.run_dir)) == 2
    assert verify_run(old.run_dir, range(7)) == []


def test_its_dataset_has_the_new_column_in_all_parts(old: RunConfig) -> None:
    extend_dir(old.run_dir, ["optimizer.rounds=9"], below=1)
    rewrite_report(old.run_dir, old)
    loaded = datasets.load_dataset(str(old.run_dir))["train"]
    assert loaded["parent_id"][:] == [None] * 6 + loaded["id"][:6]
