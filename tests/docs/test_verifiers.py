"""The page about verifiers: its commands and snippets do what it says, in its order."""

from __future__ import annotations

import csv
import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from noisesmith.pipeline import cli
from noisesmith.pipeline.cli.rescore import _judge
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.report import write_report
from noisesmith.pipeline.sinks import read_rows, verify_run
from tests.docs.test_snippets import snippets
from tests.sinks.conftest import PROVENANCE, Run, result

PAGE = "docs/verifiers.md"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """``runs/my-run`` of sixty rows; scores rise with the row, and the judge detector says yes to every second."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    judges = [{"name": "detector", "model": "embedded/judge"}]
    lines = [{"prompt": f"prompt {n}"} for n in range(60)]
    made = Run(tmp_path, lines, judges=judges, output={"dir": "runs/my-run", "rows_per_shard": 30})
    writer = made.writer()
    for row in made.rows:
        score = row.index / 60
        found = replace(result(row, score=score), scores=(0.0, score), judges={"detector": (0.0, float(row.index % 2))})
        writer.put(found)
    write_report(made.dir, made.config, PROVENANCE, {})
    return made


def command(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", shlex.split(line, comments=True))
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0, line


def test_the_page_does_what_it_says(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    names: dict[str, object] = {"brightness": lambda image: len(image) / 1000}
    for snippet in snippets(PAGE):
        match snippet.language:
            case "yaml" if "accept:" in snippet.text:
                assert RunConfig.model_validate(yaml.safe_load(snippet.text)).accept is not None
            case "python":
                exec(snippet.text, names)
            # These need Ray: tests/actors/test_rescore.py and tests/bench have them.
            case "bash" if not {"rescore", "bench"} & set(snippet.text.split()):
                for line in snippet.text.splitlines():
                    if "calibrate" in line:
                        _label()
                    command(line, monkeypatch)
    kept = names["kept"]
    assert isinstance(kept, list)
    assert [int(name[:8]) for name in kept] == [55, 57, 59]
    assert names["accepted"].to_list() == list(read_rows(run.dir, ["id", "accepted", "accept_reason"]))  # type: ignore[attr-defined]
    assert len(list(Path("label").iterdir())) == 50
    assert None not in [row["brightness"] for row in read_rows(run.dir, ["brightness"])]
    assert (run.dir / "calibration.png").exists()
    assert verify_run(run.dir) == []


def test_a_judge_that_comes_later_has_a_name_of_its_own() -> None:
    """``rescore`` refuses the name of a judge of the config, and ``runs/my-run`` is the README's run."""
    (config,) = [snippet.text for snippet in snippets("README.md") if snippet.text.startswith("# my-run.yaml")]
    taken = {judge.name for judge in RunConfig.model_validate(yaml.safe_load(config)).judges}
    for snippet in snippets(PAGE):
        if snippet.language == "bash" and "rescore runs/my-run" in snippet.text:
            words = shlex.split(snippet.text)
            given = {_judge(words[at + 1]).name for at, word in enumerate(words) if word == "--judge"}
            assert given
            assert not given & taken


def _label() -> None:
    """Fill in the table that the page's snippet has written, as a person would."""
    with Path("labels.csv").open(newline="") as file:
        records = list(csv.DictReader(file))
    assert len(records) == 50
    with Path("labels.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(records[0]))
        table.writeheader()
        for record in records:
            table.writerow(record | {"label": int(record["id"][:8]) % 3 % 2})
