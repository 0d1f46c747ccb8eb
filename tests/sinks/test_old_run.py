"""A resumed run keeps its manifest's layout, columns and types; new fields are null; new defaults do not disown it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from noisesmith.pipeline.config import RunConfig, load_config
from noisesmith.pipeline.config.section import Section
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.preflight import check_run
from noisesmith.pipeline.prompts import Corpus, open_corpus
from noisesmith.pipeline.replay import replay_row
from noisesmith.pipeline.report import write_report
from noisesmith.pipeline.schema import PARENT, SINCE_VERSION_5, column_types, row_schema, schema_of
from noisesmith.pipeline.sinks import (
    check_run_dir,
    open_run,
    read_rows,
    reopen_failed,
    repair_run,
    sample_rows,
    started_corpus,
    verify_run,
)
from noisesmith.pipeline.sinks import run as opening_module
from noisesmith.pipeline.sinks.header import NEWEST, VERSION
from noisesmith.pipeline.sinks.manifest import read_manifest
from noisesmith.pipeline.sinks.reader import read_tar
from noisesmith.pipeline.sinks.run import refuse_other_run
from tests.runs import noisesmith
from tests.sinks.conftest import PROVENANCE, WITH_FIRST, Run, failure, result
from tests.writing import RunWriter

OLD = Path(__file__).parents[1] / "data" / "old_run"
CONFIG_DIGEST = "58ea20fcedad00a8fe2a608e0abbc0effeb75dff4a0f790ca12b461aa2a52870"
# The built-in models of its time, as the refusal to resume it with today's says.
MODELS = ("generators.model=embedded/v1", "scorers.model=embedded/v1", "judges.0.model=embedded/v1/judge")
CORPUS_DIGEST = "28e837b0cbc9c17204158da99ff7081326c1e252e19b7ff93093135b107a8a2a"


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """A copy of the old run in the current folder, since its corpus has a relative path."""
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return load_config("config.yaml")


def _corpus(config: RunConfig) -> Corpus:
    """The corpus as a command opens it to resume a run."""
    return open_corpus(config, started_corpus(config))


def _hashes(run_dir: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (run_dir / "data").iterdir()}


class TestRunOfAnOlderVersion:
    def test_has_the_digests_that_this_version_computes(self, old: RunConfig) -> None:
        header = read_manifest(old.run_dir).header
        corpus = _corpus(old)
        assert header.config_digest == old.digest() == CONFIG_DIGEST
        assert header.corpus_digest == corpus.digest == CORPUS_DIGEST
        now = column_types(row_schema(old, corpus.extra_schema))
        for name in ("prompt_tokens_cut", PARENT, *SINCE_VERSION_5):  # newer than the run
            del now[name]
        assert header.columns == now | {"seed": "int64"}

    def test_keeps_its_column_types_where_a_new_run_reads_others(self, old: RunConfig) -> None:
        """A new run does not take 2 and 0.5 for the same kind of number, since 2.0 does not print as 2."""
        assert _corpus(old).extra_schema.field("weight").type == pa.float64()
        assert [row.extra["weight"] for row in _corpus(old).rows()] == [0.5, None, 2.0, 1.25, None, 3.0]
        elsewhere = RunConfig.model_validate(old.model_dump() | {"output": {"dir": "new"}})
        assert _corpus(elsewhere).extra_schema.field("weight").type == pa.string()
        assert _corpus(elsewhere).extra_schema.field("image_id").type == pa.int64()

    def test_has_its_rows_done_and_its_files_intact(self, old: RunConfig) -> None:
        before = _hashes(old.run_dir)
        assert check_run_dir(old, _corpus(old)) == 5
        state = open_run(old, _corpus(old))
        assert (state.resumed, list(state.done)) == (True, [0, 1, 2, 3, 4])
        sample = sample_rows(old.run_dir, 4)
        (problem,) = verify_run(old.run_dir, sample)
        assert problem == "1 of 2 shards are not committed yet: finish the run with noisesmith retry"
        assert _hashes(old.run_dir) == before

    def test_is_replayed_and_reported(self, old: RunConfig) -> None:
        row = next(read_rows(old.run_dir, ["id", "image", "image_id", "caption_id"]))
        assert (row["image_id"], row["caption_id"]) == (9, 1001)
        again = replay_row(old.run_dir, old, row["id"])
        assert again.noise_identical
        assert b"DigitalSourceType" not in row["image"]
        assert (again.png == row["image"]) == again.image_identical
        assert write_report(old.run_dir, old, PROVENANCE, {}).rows == 4
        assert (old.run_dir / "contact_sheet.png").exists()

    def test_goes_on_with_the_models_that_made_it_only(self, old: RunConfig) -> None:
        with pytest.raises(UserError) as caught:
            check_run(old)
        assert f"set {' '.join(MODELS)}, or choose another output.dir" in str(caught.value)
        with_models = load_config("config.yaml", list(MODELS))
        check_run(with_models)
        refuse_other_run(with_models, _corpus(with_models), read_manifest(old.run_dir).header)
        judge_alone = load_config("config.yaml", list(MODELS[2:]))
        with pytest.raises(UserError, match=r"judges\.0\.model was 'embedded/judge' and is now 'embedded/v1/judge'"):
            refuse_other_run(judge_alone, _corpus(judge_alone), read_manifest(old.run_dir).header)

    def test_keeps_the_form_of_its_tars(self, old: RunConfig) -> None:
        """Only the recipe is JSON text in them; a new shard is as the first, and a repaired one too."""
        corpus = _corpus(old)
        open_run(old, corpus)
        writer = RunWriter(old.run_dir, corpus.extra_schema, corpus.size, PROVENANCE)
        (last,) = corpus.rows(5)
        writer.put(result(last))
        assert [row["image"] for row in read_rows(old.run_dir, ["image"])][-1] == result(last).image  # without a mark
        (old.run_dir / "data" / "train-00000-of-00002.parquet").unlink()
        repair_run(old, corpus, print)
        assert verify_run(old.run_dir, range(5)) == []
        assert read_manifest(old.run_dir).header.version == 1
        for shard in range(2):
            tar = old.run_dir / "data" / f"train-0000{shard}-of-00002.tar"
            for row in read_tar(tar, ["image_id", "weight", "recipe"], ["recipe"]):
                assert type(row["image_id"]) is int
                assert type(row["weight"]) in (float, type(None))

    @pytest.mark.slow
    def test_is_resumed_to_its_end(self, old: RunConfig) -> None:
        before = _hashes(old.run_dir)
        header = read_manifest(old.run_dir).header
        code, output = noisesmith("run", "config.yaml", *MODELS)
        assert code == 0, output
        after = read_manifest(old.run_dir)
        assert after.header == header
        assert list(after.entries) == [0, 1]
        assert before.items() <= _hashes(old.run_dir).items()
        assert verify_run(old.run_dir, range(6)) == []
        rows = list(read_rows(old.run_dir, ["image_id", "weight"]))
        assert [row["image_id"] for row in rows] == [9, 11, 12, 14, 15, 20]
        assert [row["weight"] for row in rows] == [0.5, None, 2.0, 1.25, None, 3.0]


def test_a_schema_follows_from_the_names_of_its_types(make_run: Callable[..., Run]) -> None:
    run = make_run(optimizer={"method": "pgd"})
    schema = row_schema(run.config, run.corpus.extra_schema)
    assert schema_of(column_types(schema), run.corpus.extra_schema) == schema
    nested = pa.schema([("deep", pa.struct([("a", pa.list_(pa.struct([("b", pa.int8()), ("c", pa.bool_())])))]))])
    assert schema_of(column_types(nested), pa.schema([])) == nested


def _with_columns(change: Callable[[dict[str, pa.DataType]], dict[str, pa.DataType]]) -> Callable[..., pa.Schema]:
    """``row_schema`` of a version whose own columns differ."""

    def changed(config: RunConfig, extra_schema: pa.Schema) -> pa.Schema:
        now = row_schema(config, extra_schema)
        return pa.schema(list(change({column.name: column.type for column in now}).items()))

    return changed


def _without_version_5(config: RunConfig, extra_schema: pa.Schema) -> pa.Schema:
    """The columns of a run of version 2."""
    own = [column for column in row_schema(config, pa.schema([])) if column.name not in (PARENT, *SINCE_VERSION_5)]
    return pa.schema([*own, *extra_schema])


def _config_of(folder: Path, lines: list[dict[str, Any]]) -> RunConfig:
    (folder / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return RunConfig.model_validate(
        {"corpus": {"source": str(folder / "p.jsonl")}, "output": {"dir": str(folder / "run")}}
    )


CHANGES: dict[str, Callable[[dict[str, pa.DataType]], dict[str, pa.DataType]]] = {
    "the old version lacks a column": lambda now: {name: kind for name, kind in now.items() if name != "evaluations"},
    "the old version has one more column": lambda now: {"sharpness": pa.float64(), **now},
    "the old version has another order": lambda now: dict(sorted(now.items())),
    "the old version has another type": lambda now: now | {"steps": pa.list_(pa.int64()), "rounds": pa.int64()},
    "the old version lacks a field of the recipe": lambda now: now | {"noise": pa.struct([("mean", pa.float64())])},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_columns_and_types_are_those_of_the_manifest(
    make_run: Callable[..., Run],
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[dict[str, pa.DataType]], dict[str, pa.DataType]],
) -> None:
    """Whether a row is written, committed on opening, tried again or repaired."""
    old = make_run(output=WITH_FIRST)
    with monkeypatch.context() as older_version:
        older_version.setattr(opening_module, "row_schema", _with_columns(change))
        writer = old.writer()
        for row in old.rows[:4]:
            writer.fail(failure(row)) if row.index == 1 else writer.put(result(row))
        columns = read_manifest(old.dir).header.columns
    now = column_types(row_schema(old.config, old.corpus.extra_schema))
    assert list(columns.items()) != list(now.items())

    reopen_failed(old.config, old.corpus, open_run(old.config, old.corpus))
    writer = old.writer()
    for row in old.rows:
        if row.index not in writer.done:
            writer.put(result(row))
    (old.dir / "tars" / "train-00001-of-00003.tar").unlink()
    repair_run(old.config, old.corpus, print, range(10))

    assert verify_run(old.dir, range(10)) == []
    assert read_manifest(old.dir).header.columns == columns
    for shard in range(3):
        written = pq.read_schema(old.dir / "data" / f"train-0000{shard}-of-00003.parquet")
        assert list(column_types(written).items()) == list(columns.items())
    rows = list(read_rows(old.dir))
    assert [row["id"] for row in rows] == [row.id for row in old.rows]
    assert all(row.get("sharpness") is None for row in rows)


def test_an_old_run_keeps_a_corpus_column_that_new_runs_write_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [{"prompt": f"prompt {n}", "scheduler": f"theirs {n}"} for n in range(2)]
    with monkeypatch.context() as older_version:
        older_version.setattr(opening_module, "row_schema", _without_version_5)
        older_version.setattr(opening_module, "VERSION", 2)
        started = open_corpus(_config_of(tmp_path, lines), "the digest of an older version")
        open_run(_config_of(tmp_path, lines), started)
    config = _config_of(tmp_path, lines)
    corpus = open_corpus(config, started_corpus(config))
    open_run(config, corpus)
    writer = RunWriter(config.run_dir, corpus.extra_schema, corpus.size, PROVENANCE)
    for row in corpus.rows():
        writer.put(result(row))
    assert verify_run(config.run_dir, range(2)) == []
    assert [row["scheduler"] for row in read_rows(config.run_dir)] == ["theirs 0", "theirs 1"]
    with pytest.raises(UserError, match="'scheduler' is one that the run itself writes"):
        open_corpus(config)


class _NewSection(Section):
    strength: float = 0.5


class _NewerConfig(RunConfig):
    """The config of a later version: a new field with a default, and a new section."""

    new_field: int = 7
    new_section: _NewSection = _NewSection()
    new_choice: _NewSection | None = None


def _newer(old: Run, **changes: Any) -> RunConfig:
    return _NewerConfig.model_validate(old.config.model_dump() | changes)


def test_a_new_default_does_not_disown_a_run(make_run: Callable[..., Run]) -> None:
    old = make_run()
    writer = old.writer()
    writer.put(result(old.rows[0]))
    header = read_manifest(old.dir).header
    newer = _newer(old)
    assert newer.digest() != old.config.digest()
    assert check_run_dir(newer, old.corpus) == 1
    assert list(open_run(newer, old.corpus).done) == [0]
    assert repair_run(newer, old.corpus, print)[0].problems == []
    assert read_manifest(old.dir).header == header


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"new_field": 8}, "new_field was '(absent)' and is now 8"),
        ({"new_section": {"strength": 1}}, "new_section.strength was '(absent)' and is now 1.0"),
        ({"new_choice": {"strength": 0.5}}, "new_choice.strength was '(absent)' and is now 0.5"),
    ],
)
def test_a_new_field_that_is_set_is_another_config(
    make_run: Callable[..., Run], changes: dict[str, Any], difference: str
) -> None:
    old = make_run()
    old.writer()
    for opening in (open_run, check_run_dir):
        with pytest.raises(UserError, match="another config") as caught:
            opening(_newer(old, **changes), old.corpus)
        assert difference in str(caught.value)


def test_a_new_default_in_a_section_that_the_run_has_chosen_is_no_difference(make_run: Callable[..., Run]) -> None:
    config = make_run(optimizer={"rounds": 4, "preview": {"steps": 2, "keep": 2}}).config
    old = config.semantic()
    for key in ("optimizer.candidates", "generators.guidance_scale", "corpus.0.seed"):
        assert config.differences({name: value for name, value in old.items() if name != key}) == []
    for key in ("optimizer.preview.keep", "optimizer.rounds", "corpus.0.source"):
        (difference,) = config.differences({name: value for name, value in old.items() if name != key})
        assert difference.startswith(f"{key} was '(absent)' and is now")


def test_numbers_as_keys_are_told_apart(make_run: Callable[..., Run]) -> None:
    excite = {"method": "attend_and_excite", "thresholds": {0.0: 0.05, 0.9: 0.8}}
    config = make_run(optimizer=excite).config
    old = {name: value for name, value in config.semantic().items() if not name.endswith("0.9")}
    assert config.differences(old) == ["optimizer.thresholds.0.9 was '(absent)' and is now 0.8"]


def test_a_manifest_has_the_fields_that_older_versions_read(make_run: Callable[..., Run]) -> None:
    """They refuse a header with other fields, and one of a newer version with a sentence."""
    run = make_run().write_all()
    old, _ = map(json.loads, (OLD / "run" / "manifest.jsonl").read_text().splitlines())
    line, *_ = map(json.loads, (run.dir / "manifest.jsonl").read_text().splitlines())
    assert list(line) == list(old)
    assert (old["version"], line["version"]) == (1, VERSION)


def test_a_run_of_a_newer_version_is_refused_and_not_called_damaged(make_run: Callable[..., Run]) -> None:
    run = make_run().write_all()
    manifest = run.dir / "manifest.jsonl"
    manifest.write_text(manifest.read_text().replace(f'"version": {VERSION}', f'"version": {NEWEST + 1}', 1))
    with pytest.raises(UserError, match=rf"is of version {NEWEST + 1}, .* reads up to version {NEWEST}; install"):
        read_manifest(run.dir)
