"""``noisesmith plan --calibrate`` on tiny models of the true classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from noisesmith.pipeline.cli import app
from noisesmith.pipeline.config import load_config
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.generators import load_generator
from noisesmith.pipeline.preflight import check_run
from noisesmith.pipeline.search.scoring import load_scoring
from noisesmith.pipeline.speed.measure import rows_of_one_size
from noisesmith.pipeline.speed.record import read_speeds
from noisesmith.pipeline.speed.trials import FIRST, RENDER, ROUND, SCORE, GeneratorTrial, ScorerTrial
from tests.runs import write_config


def plan(path: Path, *options: str) -> dict[str, str]:
    """The lines of a plan that succeeds, by name."""
    result = CliRunner().invoke(app, ["plan", str(path), *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    lines = {}
    for line in result.output.splitlines():
        name, _, text = line.partition("  ")
        lines[name] = text.strip()
    return lines


@pytest.fixture(scope="module")
def calibrated(
    tmp_path_factory: pytest.TempPathFactory, tiny_sd: Path, tiny_llava: Path
) -> tuple[Path, dict[str, str]]:
    """A config with its calibration next to it, and the plan that measured it."""
    folder = tmp_path_factory.mktemp("calibrated")
    side = {"num_cpus": 0.5, "count": 2}
    path = write_config(folder, tiny_sd, tiny_llava, generators=side, scorers=side, optimizer={"rounds": 3})
    return path, plan(path, "--calibrate", "--price", "2.5")


def test_every_size_of_either_side_is_timed(calibrated: tuple[Path, dict[str, str]]) -> None:
    path, _ = calibrated
    speeds = read_speeds(path.with_name("config.calibration.json"))
    assert list(speeds.sides) == ["generators", "scorers"]
    for side, kinds in ((speeds.generator, [FIRST, ROUND]), (speeds.scorers["scorers"], [SCORE, RENDER])):
        assert [timing.batch_size for timing in side.timings] == [1, 2]
        for timing in side.timings:
            assert list(timing.seconds) == kinds
            assert all(seconds > 0 for seconds in timing.seconds.values())
            assert timing.peak_bytes is None or timing.peak_bytes > 10**8, "Python and torch alone take more"
    assert speeds.versions["torch"] == torch.__version__


def test_rows_per_hour_and_cost_follow_from_what_is_stored(calibrated: tuple[Path, dict[str, str]]) -> None:
    path, lines = calibrated
    stored = json.loads(path.with_name("config.calibration.json").read_text())
    generator = next(one for one in stored["generator"]["timings"] if one["batch_size"] == 2)["seconds"]
    scorer = next(one for one in stored["scorers"]["scorers"]["timings"] if one["batch_size"] == 2)["seconds"]
    per_row = (generator["first"] + 3 * generator["round"]) / 2, 4 * scorer["score"] / 2 + scorer["render"]
    best = max(min(n * 0.5 / per_row[0], (4 - n) * 0.5 / per_row[1]) for n in (1, 2, 3))
    rows, _, note = lines["rows"].partition(" per hour, ")
    assert note == "if all take 4 images; more where searches end early"
    assert float(rows.replace(",", "")) == pytest.approx(3600 * best, rel=0.01)
    cost, _, terms = lines["cost"].partition(" per 1,000 rows, ")
    assert float(cost.replace(",", "")) == pytest.approx(1000 / (3600 * best) * 2 * 2.5, rel=0.01)
    assert terms == "at 2.5 per core and hour"


def test_a_calibration_is_read_again_without_a_model(
    calibrated: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, lines = calibrated

    def refuse(*_: Any) -> Any:
        raise AssertionError("a model is loaded")

    monkeypatch.setattr("noisesmith.pipeline.speed.measure.load_generator", refuse)
    monkeypatch.setattr("noisesmith.pipeline.speed.measure.load_scoring", refuse)
    file = str(path.with_name("config.calibration.json"))
    again = plan(path, "--calibration", file, "--price", "2.5")
    assert [again[name] for name in ("best split", "rows", "cost")] == [
        lines[name] for name in ("best split", "rows", "cost")
    ]


def test_a_plan_writes_nothing_but_its_calibration(calibrated: tuple[Path, dict[str, str]]) -> None:
    names = {file.name for file in calibrated[0].parent.iterdir()}
    assert names == {"config.yaml", "prompts.txt", "config.calibration.json"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--calibrate", "--price", "0"], "--price: 0 is no price; give that of one GPU for an hour, such as 2.5"),
        (["--price", "2.5"], "--price: the cost follows from measured speeds; add --calibrate, or --calibration FILE"),
        (["--calibration", "nowhere.json"], "nowhere.json: no such calibration file; make it with noisesmith plan"),
        (
            ["--calibrate", "--calibration", "no/such/folder.json"],
            "no/such/folder.json: is no file that can be written",
        ),
        (
            ["--calibrate", "generators.num_gpus=1", "ray.address=auto"],
            "generators.num_gpus: is 1, and this machine has no GPU to measure on; run plan --calibrate on a machine",
        ),
    ],
)
def test_what_cannot_be_measured_or_read_is_refused(
    options: list[str], said: str, tmp_path: Path, tiny_sd: Path, tiny_llava: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    path = write_config(tmp_path, tiny_sd, tiny_llava)
    result = CliRunner().invoke(app, ["plan", str(path), *options])
    assert isinstance(result.exception, UserError), result.output
    assert str(result.exception).startswith(said)


@pytest.mark.parametrize(
    ("sections", "kinds"),
    [
        ({"optimizer": {"probe": {"at": 0.5, "keep": 1}}}, [FIRST, ROUND]),
        ({"optimizer": {"preview": {"steps": 1, "keep": 1}}}, [FIRST, ROUND]),
        ({"optimizer": {"rounds": 0}}, [FIRST]),
        ({"optimizer": {"target_score": 1e-6, "patience": 1}}, [FIRST, ROUND]),
        ({"scorers": {"asks": "questions"}, "judges": [{"name": "eye", "model": "embedded/judge"}]}, [FIRST, ROUND]),
        ({"generators": {"batch_size": 1}, "scorers": {"readout": "contrastive"}}, [FIRST, ROUND]),
    ],
)
def test_the_calls_of_every_kind_of_search_are_timed(
    sections: dict[str, Any], kinds: list[str], tmp_path: Path, tiny_sd: Path, tiny_llava: Path
) -> None:
    config = load_config(write_config(tmp_path, tiny_sd, tiny_llava, **sections))
    models, corpus = check_run(config)
    trial = GeneratorTrial(config, load_generator(models.generator, "cpu"), rows_of_one_size(corpus, models))
    assert list(trial.run(3)) == kinds
    assert len(trial.samples) == 3
    scoring = ScorerTrial(load_scoring(config, 0, "cpu"), trial.samples, renders=True)
    assert list(scoring.run(4)) == [SCORE, RENDER]


def test_each_prompt_is_encoded_again_in_every_timed_call(tmp_path: Path, tiny_sd: Path, tiny_llava: Path) -> None:
    """As in a run, where no prompt comes twice: once for the first image, and not for the rounds."""
    config = load_config(write_config(tmp_path, tiny_sd, tiny_llava, rows=2))
    models, corpus = check_run(config)
    generator: Any = load_generator(models.generator, "cpu")
    encoded: list[int] = []
    forward = generator.pipe.text_encoder.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        encoded.append(1)
        return forward(*args, **kwargs)

    generator.pipe.text_encoder.forward = counted
    trial = GeneratorTrial(config, generator, rows_of_one_size(corpus, models))
    calls = []
    for _ in range(3):
        trial.run(2)
        calls.append(len(encoded))
    assert calls[0] > 0
    assert calls == [calls[0], 2 * calls[0], 3 * calls[0]]


def test_the_rows_with_the_largest_images_are_timed(tmp_path: Path, tiny_sd: Path, tiny_llava: Path) -> None:
    (tmp_path / "p.csv").write_text("prompt,w,h\na cat,32,32\na dog,64,32\na cup,32,32\na box,64,32\n")
    sized = [{"source": str(tmp_path / "p.csv"), "resolution": {"width": "w", "height": "h"}}]
    config = load_config(write_config(tmp_path, tiny_sd, tiny_llava, corpus=sized))
    models, corpus = check_run(config)
    assert [row.prompt for row in rows_of_one_size(corpus, models)] == ["a dog", "a box"]
