"""``noisesmith merge``, ``status`` and ``plan`` of partitions as a user types them."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from noisesmith.pipeline.cli import app
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.sinks import read_rows
from tests.merge.conftest import MakeDealt


def noisesmith(*arguments: object) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200"}, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_merge_says_what_there_is_and_what_is_missing(make_dealt: MakeDealt, tmp_path: Path) -> None:
    first, second, third = [run.dir for run in make_dealt(3)]
    with pytest.raises(UserError, match="2/3 of the partitions are missing"):
        noisesmith("merge", first, third, "--out", tmp_path / "all")
    output = noisesmith("merge", first, third, "--out", tmp_path / "some", "--allow-missing")
    assert "merged 2 partitions: 6 rows\n" in output
    assert f"1 of 3 shards are missing; to make them: noisesmith retry {tmp_path / 'some'}" in output
    output = noisesmith("merge", first, second, third, "--out", tmp_path / "all")
    assert "merged 3 partitions: 9 rows, 1 failed\n" in output
    assert f"dataset: {tmp_path / 'all'}" in output
    assert len(list(read_rows(tmp_path / "all", ["id"]))) == 9


def test_status_and_plan_speak_of_a_partitions_own_rows(make_dealt: MakeDealt, tmp_path: Path) -> None:
    first, _ = make_dealt()
    lines = noisesmith("status", first.dir).splitlines()
    assert {"partition 1/2, its own rows and shards", "rows      6 of 6 done", "shards    2 of 2 committed"} <= {*lines}
    settings = ["output.rows_per_shard=10", "--out", tmp_path / "new", "--partition", "2/2"]
    lines = noisesmith("plan", "configs/quickstart.yaml", *settings).splitlines()
    told = dict(line.split(maxsplit=1) for line in lines)
    assert told["rows"] == "10"
    assert told["shards"].startswith("1 of 10 rows")
    assert told["partition"] == "2/2 of 24 rows in 3 shards"
    assert not (tmp_path / "new").exists()
