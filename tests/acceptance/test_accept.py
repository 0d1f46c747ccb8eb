"""The acceptance rule: its verdicts, the side table ``accepted``, and where a run shows it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from noisesmith.pipeline.acceptance import accept, accept_again, calibrate, check_config, read_acceptance, verdict
from noisesmith.pipeline.config import AcceptConfig, RunConfig, validated
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.records import Atom
from noisesmith.pipeline.report import renew_report, write_report
from noisesmith.pipeline.sinks import SideWriter, config_of_run, hold_side, read_rows, repair_run, verify_run
from noisesmith.pipeline.sinks.manifest import read_manifest
from tests.sinks.conftest import PROVENANCE, Run, result

RULE = AcceptConfig(score=0.5, judges={"eye": 0.3})


def evaluate(run: Run, rule: AcceptConfig = RULE) -> list[tuple[bool | None, str | None]]:
    with hold_side(run.dir, print) as check_lock:
        accept(run.dir, rule, check_lock)
    return verdicts(run)


def verdicts(run: Run) -> list[tuple[bool | None, str | None]]:
    return [(row["accepted"], row["accept_reason"]) for row in read_rows(run.dir, ["accepted", "accept_reason"])]


EXPECTED = [
    *[(False, "score below 0.5")] * 5,
    (True, None),
    (True, None),
    (False, "judge eye unknown"),
    (False, "judge eye below 0.3"),
    (False, "judge eye below 0.3"),
]


class TestVerdict:
    @pytest.mark.parametrize(
        ("row", "expected"),
        [
            ({"score": 0.9, "judge_eye": 0.5, "atoms": [{"score": 0.5}, {"score": 1.0}]}, (True, None)),
            ({"score": 0.8, "judge_eye": None, "atoms": None}, (False, "score below 0.9")),
            ({"score": 0.9, "judge_eye": None, "atoms": None}, (False, "judge eye unknown")),
            ({"score": 0.9, "judge_eye": float("nan"), "atoms": None}, (False, "judge eye unknown")),
            ({"score": 0.9, "judge_eye": 0.4, "atoms": None}, (False, "judge eye below 0.5")),
            ({"score": 0.9, "judge_eye": 0.5, "atoms": [{"score": 0.4}, {"score": 1.0}]}, (False, "atoms below 0.5")),
            ({"score": 0.9, "judge_eye": 0.5, "atoms": [{"score": None}, {"score": 1.0}]}, (False, "atoms unknown")),
            ({"score": 0.9, "judge_eye": 0.5, "atoms": []}, (False, "atoms unknown")),
            ({"score": 0.9, "judge_eye": 0.5, "atoms": None}, (False, "atoms unknown")),
        ],
    )
    def test_names_the_first_threshold_that_fails(self, row: dict[str, Any], expected: tuple[bool, str | None]) -> None:
        assert verdict(AcceptConfig(score=0.9, judges={"eye": 0.5}, atoms=0.5), row) == expected


class TestConfig:
    @pytest.mark.parametrize(
        ("section", "message"),
        [
            ({}, "accept: give a threshold for score, judges or atoms"),
            ({"score": 1.2}, "accept.score: must be less than or equal to 1"),
            ({"judges": {"eye": -1}}, "accept.judges.eye: must be greater than or equal to 0"),
            ({"scores": 1}, "accept.scores: unknown key; did you mean 'score'?"),
        ],
    )
    def test_mistakes_are_named(self, section: dict[str, Any], message: str) -> None:
        with pytest.raises(UserError, match=message):
            validated({"corpus": {"source": "p.txt"}, "accept": section}, "config.yaml")

    def test_a_judge_or_questions_that_are_not_there_are_refused_before_a_run(self, tmp_path: Path) -> None:
        plain = {"corpus": {"source": "p.txt"}, "output": {"dir": str(tmp_path / "run")}}
        config = RunConfig.model_validate(plain | {"accept": {"judges": {"clip": 0.5}}})
        with pytest.raises(UserError, match=r"^accept\.judges\.clip: the run has no judge of this name; .* rescore"):
            check_config(config)
        with pytest.raises(UserError, match=r"^accept\.atoms: the run has no column atoms"):
            check_config(RunConfig.model_validate(plain | {"accept": {"atoms": 0.5}}))
        check_config(RunConfig.model_validate(plain | {"accept": {"score": 0.5}}))

    def test_a_judge_that_came_later_counts(self, run: Run) -> None:
        config = RunConfig.model_validate(run.config.model_dump() | {"accept": {"judges": {"clip": 0.5}}})
        with pytest.raises(UserError, match="no judge of this name"):
            check_config(config)
        add_judge(run)
        check_config(config)

    def test_a_rule_disowns_no_run(self, run: Run) -> None:
        config = RunConfig.model_validate(run.config.model_dump() | {"accept": {"score": 0.5}})
        assert config.digest() == run.config.digest()
        assert config.differences(read_manifest(run.dir).header.config) == []


def add_judge(run: Run, value: float = 1.0, shards: int = 9) -> None:
    """A judge "clip" in a side table, which says the same of every image."""
    schema = pa.schema([("judge_clip", pa.float64()), ("judge_clip_initial", pa.float64())])
    with hold_side(run.dir, print) as check_lock:
        writer = SideWriter(run.dir, "clip", schema, check_lock)
        origin = {"model": "m", "revision": str(value)}
        ids = [row["id"] for row in read_rows(run.dir, ["id"])]
        for shard in writer.missing(origin)[:shards]:
            rows = [{"id": name, "judge_clip": value} for name in ids if int(name[:8]) // 4 == shard]
            writer.put(shard, rows, origin)


class TestTable:
    def test_has_a_verdict_and_a_reason_for_every_row(self, run: Run) -> None:
        assert evaluate(run) == EXPECTED
        assert verify_run(run.dir) == []
        found = read_acceptance(run.dir)
        assert found is not None
        assert (found.rows, found.accepted, found.waiting) == (10, 2, 0)
        assert found.reasons == {"score below 0.5": 5, "judge eye below 0.3": 2, "judge eye unknown": 1}

    def test_is_left_alone_where_nothing_has_changed(self, run: Run) -> None:
        evaluate(run)
        before = (run.dir / "manifest.jsonl").read_bytes()
        evaluate(run)
        with hold_side(run.dir, print) as check_lock:
            accept_again(run.dir, run.config, check_lock)
        assert (run.dir / "manifest.jsonl").read_bytes() == before

    def test_follows_another_rule(self, run: Run) -> None:
        evaluate(run)
        assert evaluate(run, AcceptConfig(score=0.9))[-1] == (True, None)
        assert verify_run(run.dir) == []

    def test_follows_a_judge_that_changes(self, run: Run) -> None:
        add_judge(run, shards=1)
        rule = AcceptConfig(score=0.2, judges={"clip": 0.5})
        assert evaluate(run, rule)[2:6] == [(True, None)] * 2 + [(False, "judge clip unknown")] * 2
        add_judge(run)
        with hold_side(run.dir, print) as check_lock:
            accept_again(run.dir, run.config, check_lock)
        assert verdicts(run)[2:] == [(True, None)] * 8
        add_judge(run, 0.1)
        assert evaluate(run, rule)[2:] == [(False, "judge clip below 0.5")] * 8

    def test_the_configs_rule_comes_first_for_a_run_and_the_tables_later(self, run: Run) -> None:
        config = RunConfig.model_validate(run.config.model_dump() | {"accept": {"score": 0.9}})
        with hold_side(run.dir, print) as check_lock:
            accept_again(run.dir, config, check_lock)
            assert sum(accepted is True for accepted, _ in verdicts(run)) == 1
            accept(run.dir, AcceptConfig(score=0.8), check_lock)
            accept_again(run.dir, config, check_lock)
            assert sum(accepted is True for accepted, _ in verdicts(run)) == 2
            said: list[str] = []
            accept_again(run.dir, config, check_lock, said.append)
            assert sum(accepted is True for accepted, _ in verdicts(run)) == 1
            accept_again(run.dir, config, check_lock, said.append)
        assert said == ["the acceptance rule is now that of the config (score at least 0.9); it was score at least 0.8"]

    def test_a_shard_that_was_opened_again_keeps_no_earlier_rule(self, run: Run) -> None:
        earlier, now = AcceptConfig(score=0.2), AcceptConfig(score=0.9)
        evaluate(run, earlier)
        for path in ("data/train-00002-of-00003.parquet", "tars/train-00002-of-00003.tar"):
            (run.dir / path).unlink()
        repair_run(run.config, run.corpus, print)
        evaluate(run, now)
        found = read_acceptance(run.dir)
        assert found is not None
        assert found.rule["score"] == now.score

    def test_the_worst_question_counts(self, tmp_path: Path) -> None:
        """In the column that a run writes whose scorer asks questions."""
        run = Run(tmp_path, [{"prompt": f"prompt {n}"} for n in range(3)], scorers={"asks": "questions"})
        check_config(RunConfig.model_validate(run.config.model_dump() | {"accept": {"atoms": 0.5}}))
        writer = run.writer()
        for row, scores in zip(run.rows, [(0.9, 0.6), (0.9, 0.4), ()], strict=True):
            atoms = tuple(Atom("Is there a cat?", "Yes", score) for score in scores)
            writer.put(replace(result(row), atoms=atoms))
        assert evaluate(run, AcceptConfig(atoms=0.5)) == [
            (True, None), (False, "atoms below 0.5"), (False, "atoms unknown"),
        ]  # fmt: skip
        labels = {row.id: row.index == 0 for row in run.rows}
        figures = calibrate(run.dir, run.config, labels, 0.9).scores["atoms"]
        assert (figures.images, figures.fitted) == (2, False), "the worst of each image that has questions"

    def test_a_run_without_a_rule_has_none(self, run: Run) -> None:
        with hold_side(run.dir, print) as check_lock:
            accept_again(run.dir, run.config, check_lock)
        assert read_acceptance(run.dir) is None
        assert not (run.dir / "side").exists()


class TestReport:
    def test_stats_card_and_contact_sheet_show_it(self, run: Run) -> None:
        write_report(run.dir, run.config, PROVENANCE, {"seconds": 3.5, "rows_written": 10})
        plain = Image.open(run.dir / "contact_sheet.png").convert("RGB")
        assert "acceptance" not in json.loads((run.dir / "stats.json").read_text())
        evaluate(run)
        renew_report(run.dir, run.config)
        stats = json.loads((run.dir / "stats.json").read_text())
        assert stats["operations"] == {"seconds": 3.5, "rows_written": 10}, "the driver's figures are kept"
        assert stats["acceptance"]["accepted"] == 2
        assert stats["acceptance"]["rule"] == {"score": 0.5, "judges": {"eye": 0.3}}
        card = (run.dir / "README.md").read_text()
        assert "- 2 of 10 images are accepted (20.0%)." in card
        assert "- The rule: score at least 0.5, judge eye at least 0.3." in card
        assert "score below 0.5 5, judge eye below 0.3 2, judge eye unknown 1." in card
        assert "| accept\\_reason | the first threshold that it fails" in card
        marked = Image.open(run.dir / "contact_sheet.png").convert("RGB")
        assert _reds(marked) - _reds(plain) > 8 * 4 * 4 * 180, "a frame around each of eight images"


def _reds(sheet: Image.Image) -> int:
    counts = sheet.getcolors(1 << 24)
    assert counts is not None
    return sum(count for count, colour in counts if colour == (0xC4, 0x59, 0x3B))


class TestCommand:
    def test_takes_the_rule_as_options(self, run: Run, command: Callable[..., tuple[object, str]]) -> None:
        code, output = command("accept", run.dir, "--score", "0.5", "--judge", "eye=0.3")
        assert (code, output.splitlines()[0]) == (0, "2 of 10 images are accepted (20.0%).")
        assert verdicts(run) == EXPECTED
        assert command("accept", run.dir)[1] == output
        assert (run.dir / "README.md").exists()
        assert config_of_run(run.dir).accept == RULE, "a retry keeps it"
        assert config_of_run(run.dir).digest() == run.config.digest()

    def test_a_run_without_rows_keeps_its_rule(
        self, tmp_path: Path, command: Callable[..., tuple[object, str]]
    ) -> None:
        run = Run(tmp_path, [{"prompt": "a cat"}])
        run.writer()
        before = (run.dir / "config.yaml").read_bytes()
        for rule in (["--score", "0.9"], []):
            code, output = command("accept", run.dir, *rule)
            assert (code, output.count("\n")) == (2, 1)
            assert "has no committed row yet; let its run write some first, or set accept there" in output
        assert (run.dir / "config.yaml").read_bytes() == before

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ((), "has no acceptance rule yet; give one, such as noisesmith accept"),
            (("--score", "2"), "accept: score: must be less than or equal to 1, but it is 2"),
            (("--judge", "eye"), "--judge eye: write each judge once, as NAME=S"),
            (("--judge", "eye=x"), "accept: judges.eye: must be a valid number"),
            (("--judge", "clip=0.5"), "accept.judges.clip: the run has no judge of this name"),
            (("--atoms", "0.5"), "accept.atoms: the run has no column atoms"),
        ],
    )
    def test_mistakes_are_one_sentence(
        self, run: Run, command: Callable[..., tuple[object, str]], options: tuple[str, ...], message: str
    ) -> None:
        code, output = command("accept", run.dir, *options)
        assert code == 2
        assert message in output
        assert output.count("\n") == 1
        assert not (run.dir / "side").exists()
