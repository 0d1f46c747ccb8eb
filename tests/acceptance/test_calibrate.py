"""``noisesmith calibrate``: labels in, figures out, and where a run shows them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from PIL import Image

from noisesmith.pipeline.acceptance import calibrate, read_labels
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.sinks import verify_run
from tests.sinks.conftest import Run, result

Command = Callable[..., tuple[object, str]]
RIGHT = [0, 0, 1, 0, 0, 1, 1, 1, 0, 1]  # by row: whether the image shows its prompt


def write_labels(run: Run, path: Path, rows: int = 10) -> Path:
    pairs = [(row.id, label) for row, label in zip(run.rows, RIGHT, strict=True)][:rows]
    if path.suffix == ".csv":
        path.write_text("id,label\n" + "".join(f"{row_id},{label}\n" for row_id, label in pairs))
    else:
        records = [json.dumps({"note": "x", "label": label, "id": row_id}) + "\n" for row_id, label in pairs]
        path.write_text("".join(records))
    return path


class TestLabels:
    @pytest.mark.parametrize("name", ["labels.csv", "labels.jsonl"])
    def test_are_read_from_tables_and_json_lines(self, run: Run, tmp_path: Path, name: str) -> None:
        ids = {row.id for row in run.rows}
        found = read_labels(write_labels(run, tmp_path / name), ids)
        assert list(found.values()) == list(map(bool, RIGHT))
        assert set(found) == ids

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("l.csv", "id,label\nA,1\nA,0\n", "row 2: id 'A' is there twice"),
            ("l.csv", "id,label\nA,1\nB,2\n", "row 2: label '2' is neither 0 nor 1"),
            ("l.csv", "id,label\nA,\n", "row 1: label '' is neither 0 nor 1"),
            ("l.csv", "id,label\nA,true\n", "row 1: label 'true' is neither 0 nor 1"),
            ("l.csv", "id,label\nX,1\n", "row 1: the run has no committed row 'X'; ids are in its id column"),
            ("l.csv", "id,right\nA,1\n", "cannot be read .*label.* write the columns id and label"),
            ("l.csv", "id,label\nA,1,2\n", "cannot be read .CSV parse error: Expected 2 columns, got 3"),
            ("l.csv", "id,label\n", "holds no label"),
            ("l.csv", "", "cannot be read .Empty CSV file"),
            ("l.csv", "id,label\n\xff\xfe,1\n", "cannot be read|no committed row"),
            ("l.jsonl", '{"id": "A", "label": "1"}\n', "cannot be read .JSON parse error"),
            ("l.jsonl", '{"id": "A", "label": true}\n', "cannot be read .JSON parse error"),
            ("l.jsonl", '{"id": "A"}\n', "row 1: label 'None' is neither 0 nor 1"),
            ("l.jsonl", "no json\n", "cannot be read .JSON parse error"),
            ("l.txt", "A 1\n", "has no known extension; use .csv or .jsonl"),
        ],
    )
    def test_mistakes_are_one_sentence(self, tmp_path: Path, name: str, text: str, message: str) -> None:
        path = tmp_path / name
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(UserError, match=f"^--labels: {re.escape(str(path))}: (.*)({message})") as caught:
            read_labels(path, {"A", "B"})
        assert "\n" not in str(caught.value)

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="no such file; check the path"):
            read_labels(tmp_path / "gone.csv", set())


class TestCommand:
    def test_prints_and_writes_what_the_labels_say(self, run: Run, tmp_path: Path, command: Command) -> None:
        command("accept", run.dir, "--score", "0.5")
        code, output = command("calibrate", run.dir, "--labels", write_labels(run, tmp_path / "l.csv"))
        assert code == 0, output
        # Accepted are rows 5 to 9, of which 5, 6, 7 and 9 are right; so is row 2.
        assert "accepts show their prompts in 0.800 [0.38, 0.96] (4 of 5): precision" in output
        assert "the rule accepts 0.800 [0.38, 0.96] (4 of 5): recall" in output
        assert "score: from 0.9 on, precision 1.000 [0.21, 1.00] (1 of 1), recall 0.200" in output
        assert "more labels are needed to be sure of 0.9" in output
        assert "judge_eye: no threshold has a precision of 0.9 on these labels" in output
        found = json.loads((run.dir / "calibration.json").read_text())
        assert found["images"] == 10
        assert found["rule"]["rule"] == {"score": 0.5, "judges": {}}
        assert found["scores"]["judge_eye"]["images"] == 9, "of one it cannot tell"
        assert found["scores"]["judge_eye"]["temperature"] is None, "a judge steers nothing"
        diagram = Image.open(run.dir / "calibration.png")
        diagram.load()
        assert diagram.width > diagram.height > 300
        card = (run.dir / "README.md").read_text()
        assert "Of 10 images labelled by eye, those that the rule accepts show their prompts in 0.800" in card
        assert verify_run(run.dir) == []
        command("accept", run.dir, "--score", "0.6")
        assert "labelled by eye" not in (run.dir / "README.md").read_text(), "the labels saw another rule"

    def test_prints_config_lines_to_paste(self, run: Run, tmp_path: Path, command: Command) -> None:
        code, output = command("calibrate", run.dir, "--labels", write_labels(run, tmp_path / "l.jsonl"))
        assert code == 0, output
        assert "no acceptance rule yet; give one with noisesmith accept" in output
        lines = [line for line in output.splitlines() if line.startswith("calibration: ")]
        for line in lines:
            RunConfig.model_validate({"scorers": yaml.safe_load(line)})
        temperature, points = (yaml.safe_load(line)["calibration"] for line in lines)
        assert temperature["temperature"] > 0
        assert len(points["points"]) >= 2
        assert all(type(value) is float and 0 < value < 1 for point in points["points"] for value in point)

    def test_a_wanted_precision_is_an_option(self, run: Run, tmp_path: Path, command: Command) -> None:
        labels = write_labels(run, tmp_path / "l.csv")
        _, output = command("calibrate", run.dir, "--labels", labels, "--precision", "0.75")
        assert "score: from 0.5 on, precision 0.800" in output

    def test_few_labels_are_enough_for_intervals(self, run: Run, tmp_path: Path, command: Command) -> None:
        code, output = command("calibrate", run.dir, "--labels", write_labels(run, tmp_path / "l.csv", rows=1))
        assert code == 0, output
        assert "1 labelled images; they show their prompts in 0.000 [0.00, 0.79] (0 of 1)" in output
        assert "no temperature fits" in output
        assert "no rising map fits these labels" in output

    def test_a_bad_label_writes_nothing(self, run: Run, tmp_path: Path, command: Command) -> None:
        path = tmp_path / "l.csv"
        path.write_text(f"id,label\n{run.rows[0].id},yes\n")
        code, output = command("calibrate", run.dir, "--labels", path)
        assert code == 2
        assert output.startswith("error: --labels: ")
        assert not (run.dir / "calibration.json").exists()


def test_rows_without_a_label_do_not_count(run: Run) -> None:
    found = calibrate(run.dir, run.config, {run.rows[9].id: True, run.rows[0].id: False}, 0.9)
    assert found.images == 2
    assert (found.right.hits, found.right.count) == (1, 2)
    assert found.scores["score"].images == 2


def test_a_scorer_that_is_calibrated_is_not_fitted_again(run: Run) -> None:
    labels = {row.id: bool(label) for row, label in zip(run.rows, RIGHT, strict=True)}
    assert calibrate(run.dir, run.config, labels, 0.9).scores["score"].fitted
    calibrated = RunConfig.model_validate(run.config.model_dump() | {"scorers": {"calibration": {"temperature": 2}}})
    assert not calibrate(run.dir, calibrated, labels, 0.9).scores["score"].fitted


def test_each_member_of_a_panel_is_fitted(tmp_path: Path) -> None:
    """The combined score has thresholds, and nothing to calibrate."""
    panel = [{"name": "one"}, {"name": "two", "model": "embedded"}]
    run = Run(tmp_path, [{"prompt": f"prompt {n}"} for n in range(10)], scorers=panel)
    writer = run.writer()
    for row in run.rows:
        members = {"one": (0.1, row.index / 10), "two": (0.1, row.index / 20)}
        writer.put(replace(result(row), members=members))
    labels = {row.id: bool(label) for row, label in zip(run.rows, RIGHT, strict=True)}
    scores = calibrate(run.dir, run.config, labels, 0.9).scores
    assert {name: figures.fitted for name, figures in scores.items() if not name.startswith("judge")} == {
        "score": False, "score_one": True, "score_two": True,
    }  # fmt: skip
    assert scores["score_one"].temperature != scores["score_two"].temperature
