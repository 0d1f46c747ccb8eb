"""The sequential loop is the same search as ours, and the figures of the comparison with it follow from its times."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from noisesmith.pipeline.bench import base_config
from noisesmith.pipeline.bench.design import Trial
from noisesmith.pipeline.bench.loop import LOOP, LoopDesign, LoopOptions, make_loop, write_loop
from noisesmith.pipeline.bench.loop.design import EARLY, LONG, RUN, Timed
from noisesmith.pipeline.bench.loop.figures import Spread, compare_with, truth_of
from noisesmith.pipeline.bench.loop.measure import Measured, _time_loop
from noisesmith.pipeline.bench.loop.reference import SequentialLoop, recorded
from noisesmith.pipeline.bench.loop.worker import LoopRow
from noisesmith.pipeline.config import RunConfig, load_config
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.load import load_models
from noisesmith.pipeline.noise import NoiseKey
from noisesmith.pipeline.records import Row
from noisesmith.pipeline.report.summary import Estimate
from noisesmith.pipeline.search.combine import Combination
from noisesmith.pipeline.search.loop import LoadedModels, make_images
from noisesmith.pipeline.search.row import RowSearch
from noisesmith.pipeline.search.score import score
from noisesmith.pipeline.search.tasks import ScoreTask
from tests.bench.conftest import PROVENANCE, command, result, writing
from tests.runs import noisesmith, write_config
from tests.test_bad_inputs import no_model  # noqa: F401

ROW = Row(3, "00000003-abcdef01", "a cat and a red car")
STEPS = 4


def _config(folder: Path, sd: Path, llava: Path, **generators: Any) -> RunConfig:
    """A panel of two scorers with different weights, one question each."""
    scorers = [
        {"name": "first", "model": str(llava), "weight": 2.0},
        {"name": "second", "model": str(llava), "question": "Is {prompt} in this image?"},
    ]
    changes: dict[str, Any] = {"generators": {"steps": STEPS, "batch_size": 1, **generators}, "scorers": scorers}
    return load_config(write_config(folder, sd, llava, optimizer={"rounds": 3, "candidates": 8}, **changes))


@pytest.fixture(scope="module", params=["ddim", "pndm", "dpmsolver++", "euler"])
def loaded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_sd: Path, tiny_llava: Path
) -> tuple[RunConfig, LoadedModels]:
    config = _config(tmp_path_factory.mktemp("loop"), tiny_sd, tiny_llava, scheduler=request.param)
    return config, load_models(config, "cpu")


def test_the_replayed_sampler_gives_the_pipelines_image(loaded: tuple[RunConfig, LoadedModels]) -> None:
    _, models = loaded
    generator: Any = models.generator
    noise = _first_noise(generator.spec.shape)[None]
    with recorded(generator.pipe.scheduler) as sampling:
        expected = generator.sample([ROW.prompt], noise, STEPS)
    assert torch.equal(sampling.replay(noise), expected)
    assert not {"step", "set_timesteps"} & vars(generator.pipe.scheduler).keys()


def test_its_gradient_is_ours(loaded: tuple[RunConfig, LoadedModels]) -> None:
    config, models = loaded
    noise = _first_noise(models.generator.spec.shape)
    image = SequentialLoop(models, config).make_image(ROW, noise, gradient=True)

    latents = models.generator.sample([ROW.prompt], noise[None], STEPS)
    opinions = [score(models.decoder, group, [ScoreTask(ROW.prompt, True)], latents)[0] for group in models.groups]
    combined = Combination(config)
    value = combined.score([log_score for opinion in opinions for log_score in opinion.log_scores])
    parts: list[Tensor] = [slope.factor * slope.log_gradient for slope in combined.slopes(opinions)]
    ours = models.generator.gain(STEPS) * value * torch.stack(parts).sum(0)

    assert image.score == pytest.approx(value, rel=1e-5)
    assert image.gradient is not None
    assert float((image.gradient - ours).norm() / ours.norm()) <= 1e-5


def test_it_takes_the_same_candidates_and_finds_the_same_scores(loaded: tuple[RunConfig, LoadedModels]) -> None:
    config, models = loaded
    found = SequentialLoop(models, config).search(ROW, rounds=3)
    search = RowSearch[Tensor](ROW, config)
    while not search.finished:
        make_images([search], config, models)
    assert found.indices == [record.index for record in search.records[1:]]
    assert found.scores == pytest.approx(search.scores, rel=1e-4)
    assert found.best.score == max(found.scores)


def test_it_pays_for_nothing_twice(tmp_path: Path, tiny_sd: Path, tiny_llava: Path) -> None:
    """One denoising and one decoding per image, and no gradient that no move needs: the loop is not made slow."""
    config = _config(tmp_path, tiny_sd, tiny_llava)
    models = load_models(config, "cpu")
    generator: Any = models.generator
    passes: Counter[str] = Counter()
    backward: list[bool] = []
    generator.pipe.unet.register_forward_hook(lambda *_: passes.update(["unet"]))
    decode = models.decoder.vae.decode

    def counted(latents: Tensor, **options: Any) -> Any:
        passes.update(["vae"])
        backward.append(latents.requires_grad)
        return decode(latents, **options)

    models.decoder.vae.decode = counted  # type: ignore[attr-defined]
    SequentialLoop(models, config).search(ROW, rounds=2)
    assert passes == {"unet": 3 * STEPS, "vae": 3}
    assert backward == [True, True, False]


def test_ratios_are_paired_and_whole_commands_make_the_same_rows() -> None:
    run = [Measured(30, 20, 10, 110), Measured(40, 30, 10, 110)]  # 30 and 20 rows per minute, 10 s outside
    loop = [Measured(45, 40, 2, 22), Measured(35, 30, 2, 22)]  # 3 and 4 rows per minute, 5 s outside
    line = compare_with(run, loop)
    assert line.rows_per_minute == Spread(3.5, 3, 4)
    assert line.outside == Spread(5, 5, 5)
    assert line.faster == Spread(7.5, 5, 10)
    assert line.faster_whole is not None
    assert (line.faster_whole.low, line.faster_whole.high) == (155 / 40, 205 / 30)  # 5 s + 10 rows of 20 s and of 15 s
    assert line.images_per_row == 11


def test_equal_truth_compares_prompt_by_prompt_and_times_the_early_loop_by_its_images() -> None:
    run = [Measured(30, 20, 4, 16)]
    loop = [Measured(110, 100, 1, 50, (LoopRow("b", [0.2, 0.9], {"eye": 1.0}),))]
    ours = {name: {"score": 0.9, "judge_eye": eye} for name, eye in (("a", 1.0), ("b", 1.0), ("c", None))}
    theirs = {name: {"score": 0.9005, "judge_eye": eye} for name, eye in (("a", 0.0), ("b", 1.0), ("d", 1.0))}
    truth = truth_of(run, loop, ours, theirs, ["eye"])
    judged = truth.judges["eye"]
    assert [_mean(judged.run), _mean(judged.loop), _mean(judged.difference), _mean(judged.loop_rows)] == [
        1,
        0.5,
        0.5,
        1,
    ]
    assert (truth.loop_rows, truth.same, truth.prompts) == (1, 1, 2)
    assert truth.loop.faster == Spread(20, 20, 20)  # 12 rows per minute against 0.6
    assert truth.loop_early.faster == Spread(1.6, 1.6, 1.6)  # 16 images at 2 s against 20 s


def test_no_prompt_in_common_is_an_error() -> None:
    measured = [Measured(30, 20, 4, 16)]
    with pytest.raises(UserError, match="no row was finished by both"):
        truth_of(measured, measured, {}, {"a": {}}, [])


def _mean(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.mean


def _first_noise(shape: Sequence[int]) -> Tensor:
    return NoiseKey(7, ROW.id, 0).draw(0, shape)


# ---- the command


@pytest.fixture
def loop_config(tmp_path: Path, tiny_sd: Path, tiny_llava: Path) -> Path:
    judges = [{"name": "eye", "model": "embedded/judge"}]
    sides = {"generators": {"num_cpus": 0.5}, "scorers": {"num_cpus": 0.25}}
    return write_config(tmp_path, tiny_sd, tiny_llava, rows=4, judges=judges, **sides)


def _made_up(config_path: Path, out: Path) -> LoopDesign:
    """A comparison of two repeats with made-up times: the run takes 6 s for 4 rows, the loop 10 s per row."""
    options = LoopOptions(processes=(1,), loop_prompts=1, loop_rounds=9, repeats=2, truth=True)
    design = make_loop(base_config(config_path, [], LOOP), out, options, prompts=None, rounds=1)
    rows = list(design.runs.corpus.rows())
    for label, folder in ((RUN, None), (EARLY, None), (LONG, design.config(LONG).run_dir)):
        trial = next(trial for trial in design.runs.trials if trial.variant.label == label)
        folder = folder or design.folder_of(Timed(label, trial.config), 0)
        output = trial.config.output.model_copy(update={"dir": str(folder)})
        trial = Trial(trial.variant, trial.config.model_copy(update={"output": output}))
        with writing(design.runs, trial, PROVENANCE) as writer:
            for row in rows:
                writer.put(result(trial, row, [0.2, 0.6], {"eye": (0.0, 1.0)}))
        (folder / "stats.json").write_text(json.dumps({"operations": {"state": "finished"}}))
    for timed in design.timed():
        found = (LoopRow(rows[0].id, [0.2] * timed.rounds + [0.6], {"eye": 1.0}),) if timed.is_loop else ()
        measured = Measured(15, 10, 1, timed.rounds + 1, found) if timed.is_loop else Measured(8, 6, 4, 8)
        for repeat in range(2):
            path = design.measurement_of(timed, repeat)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(asdict(replace(measured, seconds=measured.seconds + repeat))))
    return design


def test_the_tables_have_a_line_per_command_with_spread_and_verdict(loop_config: Path, tmp_path: Path) -> None:
    design = _made_up(loop_config, tmp_path / "OUT")
    text, plain = (path.read_text() for path in write_loop(design))
    tables = [line for line in text.splitlines() if line.startswith("|")]
    first, second = tables[:4], tables[4:]
    assert [line.split("|")[1].strip() for line in first[2:]] == ["`noisesmith run`", "loop, 1 process, 1 round"]
    assert "| 6.48× (6.29–6.67) |" in first[3]  # 40 rows per minute against 6, then 34.3 against 5.45
    assert [line.split("|")[1].strip() for line in second[2:]] == [
        "`noisesmith run`", "loop, 1 process, 9 rounds", "loop, early stop",
    ]  # fmt: skip
    assert second[3].endswith("| 1.000 [1.00, 1.00] | +0.000 [0.00, 0.00] |")
    assert "the same kept score" in text
    whole = json.loads(plain)
    assert whole["early_stop"] == {"target_score": 0.95}
    assert whole["equal_truth"]["loop_rows"] == 2
    for line in (first, second):
        assert len({row.count("|") for row in line}) == 1


@pytest.mark.usefixtures("no_model")
def test_what_is_measured_is_not_measured_again(
    loop_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    design = _made_up(loop_config, tmp_path / "OUT")
    options = ("--processes", 1, "--loop-prompts", 1, "--loop-rounds", 9, "--rounds", 1, "--out", design.out)
    assert command(monkeypatch, "loop", loop_config, *options, "--repeats", 2, "--truth") == 0
    assert "rows in" not in capsys.readouterr().out
    assert command(monkeypatch, "loop", loop_config, *options, "--repeats", 1) == 0
    assert json.loads((design.out / "loop.json").read_text())["equal_truth"] is None
    capsys.readouterr()
    assert command(monkeypatch, "loop", loop_config, "generators.batch_size=1", *options, "--repeats", 1) == 2
    assert "was started with other settings (generators.batch_size was 2 and is now 1)" in capsys.readouterr().err


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["optimizer={method: pgd}"], "optimizer.method: the loop is that of noise_diffusion, but it is pgd"),
        (["optimizer.move_from=best"], "optimizer.move_from: the loop knows latest alone, but it is best"),
        (["optimizer.selection=order_statistic"], "optimizer.selection: the loop knows candidates alone"),
        (["optimizer.unet_evaluations=99"], "optimizer.unet_evaluations: the loop has none"),
        (["optimizer.probe.at=0.5"], "optimizer.probe: the loop has none"),
        (["optimizer.rounds=3"], "override optimizer.rounds: a comparison sets it itself; use --rounds"),
        (["--truth", "judges=[]"], "judges: equal judged truth needs one"),
        (["--processes", "two"], "--processes: must be numbers separated by commas, but it is 'two'"),
        (["--processes", "2,2"], "--processes: must be different numbers"),
        (["--repeats", 0], "--repeats: must be at least 1"),
        (["--loop-prompts", 3], "--loop-prompts: the loop needs 6 prompts and the corpus has 4"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: list[Any], named: str, loop_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert command(monkeypatch, "loop", loop_config, *arguments, "--out", tmp_path / "OUT") == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {named}")
    assert message.count("\n") == 1
    assert not (tmp_path / "OUT").exists()


@pytest.mark.slow
def test_two_processes_begin_together_and_search_different_prompts(loop_config: Path, tmp_path: Path) -> None:
    options = LoopOptions(loop_prompts=1)
    design = make_loop(base_config(loop_config, [], LOOP), tmp_path / "OUT", options, prompts=None, rounds=1)
    timed = list(design.timed())[-1]
    measured = _time_loop(design, timed, 1)
    ids = [row.id for row in design.runs.corpus.rows()]
    assert [row.id for row in measured.found] == ids[2:]
    assert [len(row.scores) for row in measured.found] == [2, 2]
    assert {row.judges.keys() == {"eye"} for row in measured.found} == {True}
    assert 0 < measured.seconds < measured.wall_seconds
    assert len(list(design.folder_of(timed, 1).glob("*/*.png"))) == 2


@pytest.mark.slow
def test_the_command_times_real_processes(loop_config: Path, tmp_path: Path) -> None:
    out = tmp_path / "OUT"
    options = ["--processes", "1", "--loop-prompts", "1", "--rounds", "1", "--repeats", "1", "--out", str(out)]
    code, output = noisesmith("bench", "loop", loop_config, *options)
    assert code == 0, output
    measured = json.loads((out / "measured" / "run-0.json").read_text())
    assert 0 < measured["seconds"] < measured["wall_seconds"]
    assert (measured["rows"], measured["images"]) == (4, 8)
    assert "loop, 1 process, 1 round" in (out / "loop.md").read_text()
