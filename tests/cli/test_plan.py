"""``noisesmith plan`` shows how the corpus is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from noisesmith.pipeline.cli import app
from noisesmith.pipeline.errors import UserError


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


SIZED = {"source": "p.csv", "resolution": {"width": "w", "height": "h"}}


def plan(**config: Any) -> tuple[int, dict[str, str]]:
    """The exit code and the lines of a plan, by name."""
    Path("c.yaml").write_text(yaml.safe_dump(config))
    result = CliRunner().invoke(app, ["plan", "c.yaml"])
    lines = {}
    for line in result.output.splitlines():
        name, _, text = line.partition("  ")
        lines[name] = text.strip()
    return result.exit_code, lines


def test_plan_lists_the_sizes_of_images_and_states_what_the_largest_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.csv").write_text("prompt,w,h\na cat,640,640\na dog,960,640\na cup,640,960\na box,700,700\n")
    Path("plain.txt").write_text("a cat\n")
    code, lines = plan(corpus=SIZED, generators={"buckets": [[64, 64], [96, 64], [64, 80]]})
    assert code == 0, lines
    assert lines["sizes"] == (
        "64×64 (rows: 2), 96×64 (rows: 1), 64×80 (rows: 1); all images of a batch have one size; latents, memory and "
        "operations are stated for 96×64"
    )
    _, wide = plan(corpus={"source": "plain.txt"}, generators={"width": 96, "height": 64})
    assert ", 96×64 px, latents 16×8×12, " in lines["generator"]
    for name in ("generator", "a generator", "a scorer"):
        assert lines[name] == wide[name]
    assert "sizes" not in wide


def test_a_size_that_the_model_cannot_make_is_refused_before_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.csv").write_text("prompt,w,h\na cat,64,64\na dog,64,100\na cup,100,64\n")
    for config, begins in (
        ({}, "p.csv: line 3: corpus.resolution: height 100 is not a multiple of 8; give one such as 96"),
        ({"buckets": [[64, 64], [68, 64]]}, "generators.buckets.1: width 68 is not a multiple of 8"),
    ):
        Path("c.yaml").write_text(yaml.safe_dump({"corpus": SIZED, "generators": config}))
        result = CliRunner().invoke(app, ["plan", "c.yaml"])
        assert isinstance(result.exception, UserError)
        assert str(result.exception).startswith(begins)


def test_a_quick_plan_is_a_plan_without_tokens_memory_and_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.txt").write_text("a cat\n")
    Path("c.yaml").write_text(yaml.safe_dump({"corpus": {"source": "p.txt"}}))
    whole = CliRunner().invoke(app, ["plan", "c.yaml"]).output.splitlines()
    quick = CliRunner().invoke(app, ["plan", "c.yaml", "--quick"]).output.splitlines()
    assert quick == whole[: len(quick)]
    left_out = [line.partition("  ")[0] for line in whole[len(quick) :]]
    assert left_out == [
        "prompts for generators.model",
        "prompts for scorers.model",
        "a generator",
        "a scorer",
        "balance",
    ]


def test_to_measure_is_not_quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["plan", "missing.yaml", "--quick", "--calibrate"])
    assert isinstance(result.exception, UserError)
    assert str(result.exception).startswith("--quick: --calibrate loads the models")
