"""``placement: auto``: what a run takes from a calibration or from the models' operations, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from noisesmith.pipeline.config import RunConfig, dump_config, load_config
from noisesmith.pipeline.cost.estimate import estimate
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.preflight import find_models
from noisesmith.pipeline.speed.figures import generator_seconds, scorer_seconds
from noisesmith.pipeline.speed.ladder import BatchTiming, SideTiming
from noisesmith.pipeline.speed.placement import open_sizes, place
from noisesmith.pipeline.speed.record import check_speeds, read_speeds, speeds_of, write_speeds
from tests.runs import write_config

AUTO = {"mode": "auto"}


def side(seconds: dict[int, dict[str, float]], best: int) -> SideTiming:
    timings = tuple(BatchTiming(size, kinds, None) for size, kinds in seconds.items())
    return SideTiming(timings, best, "")


def settings(folder: Path, sd: Path, llava: Path, **sections: Any) -> RunConfig:
    return load_config(write_config(folder, sd, llava, **({"placement": AUTO} | sections)))


def calibrated(config: RunConfig, path: Path, first: float, score: float, best: int = 4) -> None:
    """Store a calibration in which calls take so many seconds per row."""
    generator = side({size: {"first": size * first, "round": size * first} for size in (1, 2, 4)}, best)
    scorer = side({size: {"score": size * score, "render": 0.0} for size in (1, 2, 4)}, best)
    scorers = {placed.section: scorer for placed, *_ in config.groups}
    write_speeds(path, speeds_of(config, find_models(config), generator, scorers))


def counts_of(config: RunConfig) -> list[tuple[int, int]]:
    sides = [config.generators, *(placed for placed, *_ in config.groups)]
    return [(placed.count, placed.batch_size) for placed in sides]


@pytest.mark.parametrize("scorers", [{}, {"batch_size": 2}, [{"name": "a"}, {"name": "b", "batch_size": 3}]])
def test_a_batch_size_that_is_left_open_stays_so_in_the_config_of_the_run(scorers: object) -> None:
    """So that retry and extend choose it again."""
    config = RunConfig.model_validate({"placement": AUTO, "scorers": scorers})
    again = RunConfig.model_validate(yaml.safe_load(dump_config(config)))
    assert again == config
    assert open_sizes(again) == open_sizes(config)


def test_previews_count_with_their_own_steps(tmp_path: Path, tiny_sd: Path, tiny_llava: Path) -> None:
    """A row takes an image of 10 steps, four previews of 2, and the best of them at full steps: 28 steps of 6 × 10."""
    steps = {"steps": 10}
    config = settings(tmp_path, tiny_sd, tiny_llava, generators=steps, optimizer={"rounds": 4, "preview": {"steps": 2}})
    generator, _ = estimate(config, find_models(config))
    assert generator.cost is not None
    each = (generator.cost.flops - generator.cost.once) * 28 / 60 + generator.cost.once / 6
    assert generator.flops == pytest.approx(each / config.generators.batch_size)
    assert "TFLOP per image at full steps, 0.47 of it on average" in str(generator)


def test_the_counts_follow_the_calibration_next_to_the_config(tmp_path: Path, tiny_sd: Path, tiny_llava: Path) -> None:
    four = {"count": 4}
    config = settings(tmp_path, tiny_sd, tiny_llava, generators=four, scorers=four)
    notes: list[str] = []
    for first, score, expected in ((3.0, 1.0, (6, 2)), (1.0, 7.0, (1, 7)), (1.0, 1.0, (4, 4))):
        calibrated(config, tmp_path / "config.calibration.json", first, score)
        again = settings(tmp_path, tiny_sd, tiny_llava, generators=four, scorers=four)
        placed = place(again, notes.append)
        assert tuple(count for count, _ in counts_of(placed)) == expected
        assert (
            notes[-1]
            == f"placement: {expected[0]} generators + {expected[1]} scorers, by {tmp_path}/config.calibration.json"
        )
        assert placed.digest() == config.digest()


def test_batch_sizes_are_chosen_where_the_config_leaves_them_open(
    tmp_path: Path, tiny_sd: Path, tiny_llava: Path
) -> None:
    config = settings(tmp_path, tiny_sd, tiny_llava)
    path = tmp_path / "measured.json"
    calibrated(config, path, 1.0, 1.0)
    raw = config.model_dump(mode="json", exclude_unset=True)
    raw["placement"] = AUTO | {"calibration": str(path)}
    del raw["scorers"]["batch_size"]
    assert [size for _, size in counts_of(place(RunConfig.model_validate(raw), print))] == [2, 4]
    del raw["generators"]["batch_size"]
    assert [size for _, size in counts_of(place(RunConfig.model_validate(raw), print))] == [4, 4]


def test_members_of_a_panel_with_actors_of_their_own_are_sides_of_their_own(
    tmp_path: Path, tiny_sd: Path, tiny_llava: Path
) -> None:
    panel = [
        {"name": "slow", "model": str(tiny_llava)},
        {"name": "fast", "model": str(tiny_llava), "count": 2},
        {"name": "guest", "model": str(tiny_llava), "shares": "fast"},
    ]
    config = settings(tmp_path, tiny_sd, tiny_llava, generators={"count": 2}, scorers=panel)
    path = tmp_path / "config.calibration.json"
    generator = side({1: {"first": 1.0, "round": 1.0}}, 1)
    scorers = {"scorers.slow": side({1: {"score": 3.0}}, 1), "scorers.fast": side({1: {"score": 1.0}}, 1)}
    write_speeds(path, speeds_of(config, find_models(config), generator, scorers))
    placed = place(settings(tmp_path, tiny_sd, tiny_llava, generators={"count": 2}, scorers=panel), print)
    assert [count for count, _ in counts_of(placed)] == [1, 3, 1]
    assert [len(group) for group in placed.groups] == [1, 2]


def test_without_a_calibration_the_models_operations_decide(tmp_path: Path, tiny_sd: Path, tiny_llava: Path) -> None:
    """Fifty sampler steps outweigh one pass of the scorer."""
    notes: list[str] = []
    four = {"count": 4}
    config = settings(tmp_path, tiny_sd, tiny_llava, generators=four | {"steps": 200}, scorers=four)
    (generators, _), (scorers, _) = counts_of(place(config, notes.append))
    assert generators + scorers == 8
    assert generators > scorers
    assert notes == [
        f"placement: {generators} generators + {scorers} scorers, by their operations; "
        "noisesmith plan --calibrate would measure them"
    ]


def test_fixed_placement_changes_nothing(tmp_path: Path, tiny_sd: Path, tiny_llava: Path) -> None:
    config = settings(tmp_path, tiny_sd, tiny_llava, placement="fixed")
    assert place(config, print) is config


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"generators": {"steps": 3}},
            "was measured where generators.steps was 2, and it is 3 now; measure again with",
        ),
        ({"scorers": {"readout": "yes_no"}}, "was measured where scorers.readout was 'yes', and it is 'yes_no' now"),
        ({"optimizer": {"method": "random_sampling", "candidates": None}}, "optimizer.method was 'noise_diffusion'"),
        ({"generators": {"num_cpus": 3}}, "was measured where device of generators was "),
        ({"generators": {"attention": "sliced"}}, "generators.attention was 'sdpa', and it is 'sliced' now"),
    ],
)
def test_a_calibration_of_something_else_is_refused(
    changes: dict[str, Any], said: str, tmp_path: Path, tiny_sd: Path, tiny_llava: Path
) -> None:
    config = settings(tmp_path, tiny_sd, tiny_llava)
    path = tmp_path / "config.calibration.json"
    calibrated(config, path, 1.0, 1.0)
    raw = config.model_dump(mode="json", exclude_unset=True)
    for name, section in changes.items():
        raw[name] = {key: value for key, value in (raw[name] | section).items() if value is not None}
    raw["placement"] = AUTO | {"calibration": str(path)}
    with pytest.raises(UserError) as refused:
        place(RunConfig.model_validate(raw), print)
    assert str(refused.value).startswith(f"{path}: was measured where ")
    assert said in str(refused.value)


def test_a_calibration_of_another_model_is_refused(
    tmp_path: Path, tiny_sd: Path, tiny_llava: Path, tiny_clip_flant5: Path
) -> None:
    calibrated(settings(tmp_path, tiny_sd, tiny_llava), tmp_path / "config.calibration.json", 1.0, 1.0)
    other = settings(tmp_path, tiny_sd, tiny_clip_flant5)
    with pytest.raises(
        UserError, match=r"was measured where scorers.model was '.*llava', and it is '.*clip-flant5' now"
    ):
        place(other, print)


def test_rounds_targets_and_counts_change_no_speed(tmp_path: Path, tiny_sd: Path, tiny_llava: Path) -> None:
    config = settings(tmp_path, tiny_sd, tiny_llava)
    path = tmp_path / "config.calibration.json"
    calibrated(config, path, 1.0, 1.0)
    raw = config.model_dump(mode="json", exclude_unset=True)
    raw["optimizer"] |= {"rounds": 40, "target_score": 0.9, "patience": 3}
    raw["generators"] |= {"count": 7}
    again = RunConfig.model_validate(raw)
    check_speeds(read_speeds(path), str(path), again, find_models(again))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such calibration file; make it with noisesmith plan CONFIG --calibrate"),
        ("{", "is no readable calibration file ("),
        ("[]", "is no calibration file of this version of noisesmith; measure again with noisesmith plan"),
        (json.dumps({"format": 1}), "a part of the calibration is missing ('made'); measure again"),
    ],
)
def test_what_is_no_calibration_is_refused(
    content: str | None, said: str, tmp_path: Path, tiny_sd: Path, tiny_llava: Path
) -> None:
    path = tmp_path / "measured.json"
    if content is not None:
        path.write_text(content)
    config = settings(tmp_path, tiny_sd, tiny_llava, placement=AUTO | {"calibration": str(path)})
    with pytest.raises(UserError) as refused:
        place(config, print)
    assert str(refused.value).startswith(f"{path}: {said}")


def test_a_calibration_reads_back_as_it_was_written(tmp_path: Path, tiny_sd: Path, tiny_llava: Path) -> None:
    config = settings(tmp_path, tiny_sd, tiny_llava)
    generator = side({1: {"first": 0.25, "round": 0.125}}, 1)
    speeds = speeds_of(config, find_models(config), generator, {"scorers": side({2: {"score": 0.5}}, 2)})
    write_speeds(tmp_path / "x.json", speeds)
    assert read_speeds(tmp_path / "x.json") == speeds


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("placement=fast", "placement.mode: must be 'fixed' or 'auto', but it is 'fast'"),
        ("placement.rebalance_seconds=0", "placement.rebalance_seconds: must be greater than 0"),
        ("placement.file=x.json", "placement.file: unknown key"),
    ],
)
def test_a_wrong_field_is_named(given: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("corpus: {source: embedded/simple, size: 3}\n")
    with pytest.raises(UserError) as refused:
        load_config(path, [given])
    assert said in str(refused.value)


def test_a_row_takes_a_first_call_and_its_rounds() -> None:
    config = RunConfig.model_validate({"generators": {"steps": 20}, "optimizer": {"rounds": 10}})
    assert generator_seconds(config, BatchTiming(4, {"first": 8.0, "round": 6.0}, None)) == (8.0 + 10 * 6.0) / 4
    assert scorer_seconds(config, BatchTiming(4, {"score": 2.0}, None)) == 11 * 2.0 / 4
    assert scorer_seconds(config, BatchTiming(4, {"score": 2.0, "render": 3.0}, None)) == 11 * 2.0 / 4 + 3.0 / 2


def test_probes_that_are_finished_count_by_their_sampler_steps() -> None:
    """Ten probes of 8 steps, two of which take the 12 steps that are left: as long as 13 probes."""
    probing = {"rounds": 10, "probe": {"at": 0.4, "keep": 2}}
    config = RunConfig.model_validate({"generators": {"steps": 20}, "optimizer": probing})
    found = generator_seconds(config, BatchTiming(1, {"first": 5.0, "round": 2.0}, None))
    assert found == pytest.approx(5.0 + 13 * 2.0)


def test_a_row_without_rounds_takes_its_first_call() -> None:
    config = RunConfig.model_validate({"optimizer": {"method": "none"}})
    assert generator_seconds(config, BatchTiming(2, {"first": 3.0}, None)) == 1.5
    assert scorer_seconds(config, BatchTiming(2, {"score": 1.0}, None)) == 0.5
