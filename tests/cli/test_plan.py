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


def test_plan_counts_the_questions_that_scorers_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three by the rules, one that is listed, and one for a prompt that the rules do not understand."""
    monkeypatch.chdir(tmp_path)
    listed = '[["Is there a cat?", "Yes"]]'
    Path("p.csv").write_text(
        f'prompt,asked\na fox above a box,\na cat,"{listed.replace(chr(34), chr(34) * 2)}"\nno idea,\n'
    )
    config = {"corpus": {"source": "p.csv", "questions": "asked"}, "scorers": {"asks": "questions"}}
    Path("c.yaml").write_text(yaml.safe_dump(config))
    result = CliRunner().invoke(app, ["plan", "c.yaml"])
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.output.splitlines() if line.startswith("questions ")]
    assert line.split(maxsplit=1)[1] == (
        "1.7 per prompt, at most 3, each one pass of the scorer; 1 of 3 prompts are asked as a whole"
    )
    assert "one question per image is counted" in result.output
