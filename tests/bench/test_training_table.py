"""The table of a comparison of trainings, from made-up results."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from noisesmith.pipeline.bench.training import ARMS, TrainingDesign, TrainingOptions
from noisesmith.pipeline.bench.training.compare import compare_arms
from noisesmith.pipeline.bench.training.results import Results, read_results, write_results
from noisesmith.pipeline.bench.training.tables import write_training
from noisesmith.pipeline.errors import UserError
from tests.bench.trainings import config_file, design_of, finish_run

OPTIONS = TrainingOptions(held_out=3, images=2, steps=2, batch_size=4)
GAIN = {"untouched": 0.0, "first_images": 0.0, "kept_images": 0.1, "accepted": 0.2, "pairs": 0.3, "repeat": 0.05}
TRUTH = [0.2, 0.4, None]  # of the untouched model; the third prompt cannot be judged
SEED_STEP = 0.02  # by which every trained arm is better with the next seed


def made_up(label: str, seed: int) -> Results:
    """The results of an arm that is better than the untouched model by :data:`GAIN`."""
    gain = GAIN[label]
    if label != "untouched":
        gain += SEED_STEP * seed
    prompts: list[dict[str, float | None]] = []
    for number, truth in enumerate(TRUTH):
        judged = None if truth is None else truth + gain
        prompts.append({"score": 0.1 * number + gain, "judge_eye": judged, "diversity": 0.3 - gain / 10})
    trained = label != "untouched"
    return Results(label, seed, 2 * trained, 4 * trained, 6 * trained, [0.5, 0.4] * trained, 1.5, prompts)


def written(design: TrainingDesign) -> tuple[str, dict[str, object]]:
    for one in design.trainings:
        write_results(design.results_of(one), made_up(one.arm.label, one.seed))
    text, plain = write_training(design)
    return text.read_text(), json.loads(plain.read_text())


@pytest.fixture
def design(tmp_path: Path, tiny_sd: Path, tiny_llava: Path) -> TrainingDesign:
    made = design_of(config_file(tmp_path, tiny_sd, tiny_llava), OPTIONS, seeds=2)
    finish_run(made)
    return made


def test_the_table_has_every_arm_with_both_differences(design: TrainingDesign) -> None:
    text, _ = written(design)
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    cells = {}
    for line in table[2:]:
        label, *rest = (cell.strip(" `") for cell in line.split("|")[1:-1])
        cells[label] = rest
    assert list(cells) == [arm.label for arm in ARMS]
    assert cells["untouched"][:2] == ["0.100", "–"]
    # Mean over two seeds: the gain and half a step more. The baseline gains half a step, too.
    assert cells["pairs"][3:6] == ["0.610", "+0.310 [0.31, 0.31]", "+0.300 [0.30, 0.30]"]
    assert cells["repeat"][5] == "+0.050 [0.05, 0.05]"
    assert cells["first_images"][5] == "–"
    for fact in (
        "2 seeds; 2 steps of 4 pictures, drawn from 6 different", "3 held-out prompts with 2 images", "β = 500",
        "8 prompts", "Judge eye by seed: `untouched` 0.300; `first_images` 0.300, 0.320",
    ):  # fmt: skip
        assert fact in text


def test_the_json_has_everything(design: TrainingDesign) -> None:
    _, whole = written(design)
    assert whole["judges_of_record"] == ["eye"]
    assert whole["selected_by"] == {"score": 0.5, "judges": {}, "atoms": None}
    assert whole["held_out_prompts"] == 3
    arms = whole["arms"]
    assert isinstance(arms, dict)
    accepted = arms["accepted"]
    assert (accepted["pictures"], accepted["steps"], accepted["pictures_per_step"]) == (6, 2, 4)
    assert (accepted["first_loss"], accepted["last_loss"]) == (0.5, 0.4)
    difference = accepted["measures"]["judge_eye"]["differences"]["untouched"]["mean"]
    assert difference == pytest.approx(GAIN["accepted"] + SEED_STEP / 2)


def test_intervals_are_paired_over_prompts() -> None:
    """An arm whose gain differs by prompt: the interval of the mean gain, not of two independent means."""
    rng = np.random.default_rng(0)
    base = rng.uniform(0, 1, 200)
    gains = rng.normal(0.05, 0.02, 200)
    values = {"untouched": base, "kept_images": base + gains}
    results = []
    for label, scores in values.items():
        prompts: list[dict[str, float | None]] = [{"score": float(score)} for score in scores]
        results.append(replace(made_up(label, 0), prompts=prompts))
    difference = compare_arms(results)["kept_images"].measures["score"].differences["untouched"]
    assert difference is not None
    error = gains.std(ddof=1) / np.sqrt(200)
    assert difference.mean == pytest.approx(gains.mean())
    assert difference.low == pytest.approx(gains.mean() - 1.96 * error, abs=error / 4)
    assert difference.high == pytest.approx(gains.mean() + 1.96 * error, abs=error / 4)


@pytest.mark.parametrize(
    "changes", [{"steps": 3}, {"pictures": 8}, {"pictures_per_step": 2}, {"prompts": [{"score": 1.0}]}]
)
def test_arms_of_unequal_budgets_or_prompts_are_not_compared(changes: dict[str, Any]) -> None:
    results = [made_up("untouched", 0), made_up("accepted", 0), replace(made_up("pairs", 0), **changes)]
    with pytest.raises(UserError, match="delete the folder arms"):
        compare_arms(results)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "pairs-seed0.json").write_text('{"arm": "pairs"')
    with pytest.raises(UserError, match=r"pairs-seed0.json: cannot be read .*; delete it"):
        read_results(tmp_path / "pairs-seed0.json")
