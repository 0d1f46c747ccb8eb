"""``noisesmith extend`` as a user types it."""

from __future__ import annotations

from pathlib import Path

import pytest

from noisesmith.pipeline.sinks import read_rows
from noisesmith.pipeline.storage.files import sha256_of
from tests.runs import noisesmith, write_config

ONE = {"batch_size": 1}


@pytest.mark.slow
def test_searches_go_on_and_replay(tmp_path: Path, tiny_sd: Path, tiny_llava: Path) -> None:
    config = write_config(tmp_path, tiny_sd, tiny_llava, rows=2, generators=ONE, scorers=ONE)
    run_dir = tmp_path / "run"
    code, output = noisesmith("run", config)
    assert code == 0, output
    before = {path: sha256_of(path) for path in run_dir.glob("data/*")}
    code, output = noisesmith("extend", run_dir, "--below", "1", "optimizer.rounds=3")
    assert code == 0, output

    assert before.items() <= {path: sha256_of(path) for path in run_dir.glob("data/*")}.items()
    rows = list(read_rows(run_dir, ["id", "parent_id", "rounds", "score", "score_initial"]))
    assert [row["parent_id"] for row in rows] == [None, None, rows[0]["id"], rows[1]["id"]]
    assert [row["rounds"] for row in rows] == [2, 2, 3, 3]
    assert [row["score_initial"] for row in rows[2:]] == [row["score"] for row in rows[:2]]
    code, output = noisesmith("verify", run_dir, "--replay", "4")
    assert code == 0, output
    code, output = noisesmith("replay", run_dir, rows[3]["id"], "--out", tmp_path / "again.png")
    assert code == 0, output
    assert "bit-identical" in output
    code, output = noisesmith("extend", run_dir, "--below", "1", "optimizer.rounds=3")
    assert code == 0, output
    assert "nothing to run" in output


@pytest.mark.slow
def test_a_mistake_is_one_sentence(tmp_path: Path) -> None:
    code, output = noisesmith("extend", tmp_path, "corpus.source=more.txt")
    assert code == 2
    assert "is not a run directory" in output
    assert "Traceback" not in output
