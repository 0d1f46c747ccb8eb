"""``noisesmith plan`` shows how the corpus is read."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from noisesmith.pipeline.cli import app


def test_plan_shows_the_format_and_the_columns_of_each_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.tsv").write_text("prompt\tid_of_image\na cat\t007\n")
    Path("b.jsonl").write_text('{"prompt": "a cat", "n": 1, "mixed": 1}\n{"prompt": "a dog", "n": 2, "mixed": "x"}\n')
    Path("c.yaml").write_text(yaml.safe_dump({"corpus": [{"source": "a.tsv"}, {"source": "b.jsonl"}]}))
    result = CliRunner().invoke(app, ["plan", "c.yaml"])
    assert result.exit_code == 0, result.output
    lines = dict(line.split(maxsplit=1) for line in result.output.splitlines() if line.startswith("co"))
    assert lines["corpus"] == "a.tsv (table separated by tabs, rows: 1); b.jsonl (JSON lines, rows: 2)"
    assert lines["columns"] == "id_of_image string, n int64, mixed JSON text"
