"""The comparison of trainings: its prompts and pictures, its files and how it goes on after a kill, what it refuses."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import yaml
from PIL import Image

from noisesmith.pipeline.bench import base_config, training
from noisesmith.pipeline.bench.started import begin
from noisesmith.pipeline.bench.training import ARMS, TrainingOptions, run
from noisesmith.pipeline.bench.training.data import Exports, examples_of, write_exports
from noisesmith.pipeline.bench.training.design import TrainingDesign
from noisesmith.pipeline.bench.training.evaluate import diversity
from noisesmith.pipeline.bench.training.held_out import held_out_rows, same_prompt
from noisesmith.pipeline.bench.training.loop import _batches
from noisesmith.pipeline.bench.training.results import read_results, write_results
from noisesmith.pipeline.config import CorpusConfig, RunConfig, load_config
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.images import decode_png
from noisesmith.pipeline.prompts import open_corpus
from noisesmith.pipeline.sinks import read_rows
from noisesmith.pipeline.telemetry.console import search_progress
from tests.bench.conftest import command
from tests.bench.trainings import OPTIONS, PROMPTS, TRAINED, config_file, design_of, finish_run
from tests.test_bad_inputs import no_model  # noqa: F401
from tests.tiny_pipelines import pixart_sigma

LABELS = ["untouched", "first_images", "kept_images", "accepted", "pairs", "repeat"]

COLUMNS = {
    "first": ["image_initial"],
    "kept": ["image"],
    "accepted": ["image"],
    "pairs": ["image", "image_initial"],
}


@pytest.fixture
def config_path(tmp_path: Path, tiny_sd: Path, tiny_llava: Path) -> Path:
    datasets.disable_progress_bars()
    return config_file(tmp_path, tiny_sd, tiny_llava)


@pytest.fixture
def finished(config_path: Path) -> TrainingDesign:
    """A comparison whose run is finished."""
    design = design_of(config_path)
    finish_run(design)
    return design


def export(design: TrainingDesign) -> Exports:
    return write_exports(design, search_progress, lambda _: None)


def test_no_prompt_that_is_evaluated_is_trained_on(config_path: Path) -> None:
    design = design_of(config_path)
    trained = [row.prompt for row in design.data.corpus.rows()]
    assert trained == PROMPTS[:TRAINED]
    assert [row.prompt for row in design.held_out] == PROMPTS[TRAINED : TRAINED + 3]
    assert len({row.id for row in design.held_out}) == 3


def test_prompts_that_differ_in_case_or_space_only_are_the_same(tmp_path: Path) -> None:
    lines = ["a cat", "a dog", "A  Cat.", "a bowl", "a Bowl", "a car"]
    (tmp_path / "prompts.txt").write_text("\n".join(lines))
    config = RunConfig(corpus=(CorpusConfig(source=str(tmp_path / "prompts.txt"), size=2),))
    assert [row.prompt for row in held_out_rows(config, lines[:2], 2)] == ["a bowl", "a car"]
    with pytest.raises(UserError, match=r"--held-out: .*has only 2 different prompts .* 3 are wanted"):
        held_out_rows(config, lines[:2], 3)


def test_prompts_of_grammars_are_disjoint_and_different() -> None:
    sources = ("embedded/simple", "embedded/complex")
    config = RunConfig(corpus=tuple(CorpusConfig(source=source, size=100) for source in sources))
    trained = [row.prompt for row in open_corpus(config).rows()]
    found = [same_prompt(row.prompt) for row in held_out_rows(config, trained, 61)]
    assert len(set(found)) == 61
    assert not set(found) & set(map(same_prompt, trained))


def test_the_pictures_come_from_the_exports(finished: TrainingDesign) -> None:
    """The rule takes score ≥ 0.5: seven kept images, and six pairs, whose first images are not accepted."""
    exports = export(finished)
    rows = {row["prompt"]: row for row in read_rows(finished.config.run_dir, ["prompt", "image", "image_initial"])}
    for arm in ARMS[1:]:
        for example in examples_of(arm, exports):
            row = rows[example.prompt]
            columns = COLUMNS[arm.pictures or ""]
            assert len(example.pictures) == len(columns)
            for found, column in zip(example.pictures, columns, strict=True):
                assert torch.equal(found, decode_png(row[column])), arm.label
    prompts = {arm.label: [example.prompt for example in examples_of(arm, exports)] for arm in ARMS[1:]}
    assert prompts["first_images"] == prompts["kept_images"] == prompts["repeat"]
    assert PROMPTS[0] not in prompts["accepted"]
    assert not {PROMPTS[0], PROMPTS[1]} & set(prompts["pairs"])


def test_all_arms_have_equally_many_pictures(finished: TrainingDesign) -> None:
    exports = export(finished)
    assert exports.count == 6  # of 8 images, 7 accepted ones and 12 in pairs: an even number
    for arm in ARMS[1:]:
        assert sum(len(example.pictures) for example in examples_of(arm, exports)) == exports.count


def test_fewer_pictures_can_be_asked_for_and_not_more(config_path: Path) -> None:
    fewer = design_of(config_path, TrainingOptions(held_out=3, pictures=4))
    finish_run(fewer)
    assert export(fewer).count == 4
    more = design_of(config_path, TrainingOptions(held_out=3, pictures=8))
    with pytest.raises(UserError, match="--pictures: the run has only 7 accepted images"):
        export(more)


def test_a_rule_that_accepts_nothing_is_named(config_path: Path) -> None:
    design = design_of(config_path, overrides=["accept.score=0.95"])
    finish_run(design)
    with pytest.raises(UserError, match=r"^accepted, which accept selects: .*no row is left to export"):
        export(design)


def test_each_position_comes_once_before_any_comes_again() -> None:
    batches = _batches(6, 4, torch.Generator().manual_seed(0))
    order = torch.cat([next(batches) for _ in range(3)]).tolist()
    assert sorted(order[:6]) == sorted(order[6:]) == list(range(6))


def test_a_killed_comparison_goes_on_with_the_training_that_it_was_at(
    finished: TrainingDesign, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated: list[str] = []
    original = run.Trainer.run

    def stopping(self: run.Trainer, one: Any, progress: Any) -> Any:
        if len(evaluated) == 3:
            evaluated.append("killed")
            raise KeyboardInterrupt
        evaluated.append(one.name)
        return original(self, one, progress)

    monkeypatch.setattr(run.Trainer, "run", stopping)
    with pytest.raises(KeyboardInterrupt):
        training.train_arms(finished, search_progress, lambda _: None)
    before = {path: path.stat().st_mtime_ns for path in (finished.out / "arms").iterdir()}
    assert len(before) == 3
    evaluated[3:] = ["again"]
    training.train_arms(finished, search_progress, lambda _: None)
    names = [f"{label}-seed0" for label in LABELS]
    assert evaluated == [*names[:3], "again", *names[3:]]
    assert before == {path: path.stat().st_mtime_ns for path in before}
    results = [read_results(finished.results_of(one)) for one in finished.trainings]
    trained = [one for one in results if one.arm != "untouched"]
    assert {(one.steps, one.pictures_per_step, one.pictures) for one in trained} == {(2, 4, 6)}
    assert {len(one.losses) for one in trained} == {2}
    assert results[0].losses == []
    scores = {one.arm: [prompt["score"] for prompt in one.prompts] for one in results}
    assert len(scores["untouched"]) == OPTIONS.held_out
    assert scores["first_images"] != scores["repeat"]  # another seed of the same arm
    paths = training.write_training(finished)
    whole = json.loads(paths[1].read_text())
    assert list(whole["arms"]) == LABELS
    assert training.unfinished_arms(finished) == []


def test_more_seeds_are_added_and_the_untouched_model_is_evaluated_once(config_path: Path) -> None:
    names = [one.name for one in design_of(config_path, seeds=2).trainings]
    assert names[:6] == [f"{label}-seed0" for label in LABELS]
    assert names[6:] == [f"{label}-seed1" for label in LABELS[1:]]


def test_other_settings_in_the_same_directory_are_refused(finished: TrainingDesign, config_path: Path) -> None:
    begin(finished.out, finished.settings())
    design_of(config_path, seeds=3)
    with pytest.raises(UserError, match=r"steps was 2 and is now 5\); choose another --out"):
        design_of(config_path, TrainingOptions(held_out=3, images=2, steps=5, batch_size=4))


def test_diversity_is_the_distance_between_pixels() -> None:
    black, white = torch.zeros(4, 4, 3, dtype=torch.uint8), torch.full((4, 4, 3), 255, dtype=torch.uint8)
    assert diversity([black, black]) == 0
    assert diversity([black, white]) == 1
    assert diversity([black, black, white]) == pytest.approx(2 / 3)


def test_the_pairs_are_those_that_the_dpo_scripts_read(finished: TrainingDesign) -> None:
    exports = export(finished)
    rows = datasets.load_dataset(str(exports.pairs), split="train", cache_dir=str(finished.out / "cache"))
    assert sorted(row["caption"] for row in rows) == sorted(PROMPTS[2:TRAINED])
    assert {row["label_0"] + row["label_1"] for row in rows} == {1.0}
    assert Image.open(io.BytesIO(rows[0]["jpg_0"])).size == (16, 16)


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--held-out", 1], "--held-out: must be at least 2"),
        (["--held-out", 9], "--held-out: "),
        (["--prompts", 20], "asks for 20 rows"),
        (["--images", 1], "--images: must be at least 2"),
        (["--seeds", 0], "--seeds"),
        (["--steps", 0], "--steps"),
        (["--batch-size", 3], "--batch-size: must be even"),
        (["--pictures", 5], "--pictures: must be even"),
        (["--learning-rate", 0], "--learning-rate: must be a number above 0"),
        (["--beta", "nan"], "--beta: must be a number above 0"),
        (["seed=3"], "override seed"),
        (["output.image_initial=false"], "override output.image_initial"),
        (["accept=null"], "accept: no rule says which images are right"),
        (["accept.judges={eye: 0.5}"], "judges: none is left to evaluate"),
        (["accept.judges={ear: 0.5}"], "accept.judges.ear"),
        (["judges=[]"], "judges: none is left to evaluate"),
        (["corpus.0.size=null"], "corpus: the run takes all rows"),
        (["generators.dtype=float16"], "generators.dtype: float16"),
        (["generators.compile=true"], "generators.compile"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    arguments: list[Any], named: str, config_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    given = arguments if "--held-out" in arguments else [*arguments, "--held-out", 3]
    assert command(monkeypatch, "training", config_path, "--out", tmp_path / "OUT", *given) == 2
    message = capsys.readouterr().err
    assert named in message
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert not (tmp_path / "OUT").exists()


@pytest.mark.usefixtures("no_model")
def test_a_pipeline_that_cannot_be_trained_is_named(
    config_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = f"generators.model={pixart_sigma(tmp_path / 'pixart')}"
    assert command(monkeypatch, "training", config_path, model, "--held-out", 3, "--out", tmp_path / "OUT") == 2
    assert "is loaded by PixArtSigmaPipeline, which this comparison cannot train" in capsys.readouterr().err


def test_the_built_in_config_leaves_a_judge_of_record() -> None:
    config = base_config(None, [], training.TRAINING)
    assert config.accept is not None
    assert {judge.name for judge in config.judges} - set(config.accept.judges)


@pytest.mark.usefixtures("no_model")
def test_finished_trainings_are_compared_without_models(
    finished: TrainingDesign, config_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.bench.test_training_table import made_up

    begin(finished.out, finished.settings())
    export(finished)
    for one in finished.trainings:
        write_results(finished.results_of(one), made_up(one.arm.label, one.seed))
    options = [("--held-out", 3), ("--images", 2), ("--steps", 2), ("--batch-size", 4), ("--seeds", 1)]
    flat = [word for option in options for word in option]
    assert command(monkeypatch, "training", config_path, "--out", finished.out, *flat) == 0
    said = capsys.readouterr().out
    assert "6 trainings: 6 done, 0 to make" in said
    assert "| `pairs` |" in said


def test_a_list_of_scorers_and_a_selecting_judge_come_from_the_config(config_path: Path) -> None:
    config = yaml.safe_load(config_path.read_text())
    config["judges"].append({"name": "second", "model": "embedded/judge"})
    config["accept"]["judges"] = {"second": 0.5}
    config_path.write_text(yaml.safe_dump(config))
    design = design_of(config_path)
    assert load_config(config_path).accept == design.rule
    finish = design.settings()["accept"]
    assert finish == {"score": 0.5, "judges": {"second": 0.5}, "atoms": None}
