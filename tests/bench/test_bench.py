"""The command: what it writes of finished runs, what it refuses before any model, and one real comparison."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from noisesmith.pipeline.bench import write_comparison
from noisesmith.pipeline.bench.design import Design
from noisesmith.pipeline.config import METHODS, load_config
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.replay import replay_row
from noisesmith.pipeline.sinks import read_rows
from tests.bench.conftest import PROVENANCE, command, write_trial
from tests.runs import noisesmith
from tests.test_bad_inputs import no_model  # noqa: F401

SCORES = {"none": [0.2], "noise_diffusion": [0.2, 0.6], "random_sampling": [0.2, 0.5]}
FILES = ["methods.md", "methods.json", "score_by_round.png", "score_by_evaluations.png"]
Finished = Callable[..., Design]


def test_the_table_has_every_method_with_its_difference(finished: Finished) -> None:
    write_comparison(design := finished(SCORES))
    text = (design.out / "methods.md").read_text()
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert [line.split("|")[1].strip(" `") for line in table[2:]] == list(SCORES)
    assert len({line.count("|") for line in table}) == 1
    assert "-0.100 [-0.10, -0.10]" in table[4]
    for fact in ("4 prompts", "1 seed, 1 round;", "T = 4", "guidance 3", "torch 2", "ab12", "cd34"):
        assert fact in text


def test_the_json_has_everything_at_full_precision(finished: Finished) -> None:
    write_comparison(design := finished(SCORES))
    whole = json.loads((design.out / "methods.json").read_text())
    assert list(whole["variants"]) == list(SCORES)
    assert (whole["reference"], whole["prompts"], whole["rows"]) == ("noise_diffusion", 4, 4)
    assert whole["conditions"]["steps"] == 4
    ours = whole["variants"]["random_sampling"]
    assert ours["optimizer"]["method"] == "random_sampling"
    assert ours["difference"]["score"]["mean"] == pytest.approx(0.5 - 0.6, abs=1e-15)
    assert ours["difference"]["budget"] == 8
    assert [name.split("/")[-1] for name in ours["parts"]] == ["plain.txt", "hard.txt"]
    assert ours["noise_ks"] == 0.03


def test_the_plots_are_images_wide_enough_for_a_readme(finished: Finished) -> None:
    write_comparison(design := finished(SCORES))
    for name in FILES[2:]:
        assert Image.open(design.out / name).width >= 1200


@pytest.mark.usefixtures("no_model")
def test_finished_runs_are_compared_without_ray(
    finished: Finished, config_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    design = finished(SCORES)
    options = ("--rounds", 1, "--seeds", 1, "--methods", ",".join(SCORES), "--out", design.out)
    assert command(monkeypatch, "methods", config_path, *options) == 0
    assert "3 done, 0 to make" in capsys.readouterr().out
    assert all((design.out / name).is_file() for name in FILES)


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--prompts", 0], "--prompts"),
        (["--prompts", 1], "--prompts: 1 is below the 2 sources"),
        (["--prompts", 20], "asks for 10 rows"),
        (["--rounds", 0], "--rounds"),
        (["--seeds", -1], "--seeds"),
        (["--methods", "noise_diffusion,magic"], "'magic'"),
        (["--methods", "none,pgd"], "noise_diffusion"),
        (["--methods", "noise_diffusion,noise_diffusion"], "twice"),
        (["--methods", "noise_diffusion,preview_4"], "variant preview_4: optimizer.preview.steps"),
        (["--variants", "nowhere.yaml"], "nowhere.yaml"),
        (["--variants", "OWN", "--methods", "noise_diffusion,slow"], "variant slow: optimizer.step"),
        (["--out", "OWN"], "OWN is not a directory; choose another --out"),
        (["optimizer.rounds=3"], "override optimizer.rounds"),
        (["seed=3"], "override seed"),
        (["generators.steps=0"], "generators.steps"),
        (["generators.num_cpus=4096"], "generators.num_cpus"),
        (["generators.model=/no/such"], "error: generators.model"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    arguments: list[str], named: str, config_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "OWN").write_text("slow: {method: pgd, step: -1}\n")
    monkeypatch.chdir(tmp_path)
    given = arguments if "--methods" in arguments else [*arguments, "--methods", "noise_diffusion"]
    assert command(monkeypatch, "methods", config_path, *given) == 2
    message = capsys.readouterr().err
    assert named in message
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert not list(tmp_path.glob("**/*manifest*"))


@pytest.mark.usefixtures("no_model")
def test_a_missing_config_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(monkeypatch, "methods", "nowhere.yaml") == 2
    assert "nowhere.yaml: no such config file" in capsys.readouterr().err


@pytest.mark.usefixtures("no_model")
def test_other_rounds_in_the_same_directory_are_refused(
    finished: Finished, config_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = finished(SCORES).out
    assert command(monkeypatch, "methods", config_path, "--rounds", 9, "--methods", ",".join(SCORES), "--out", out) == 2
    message = capsys.readouterr().err
    assert "optimizer.rounds was 1 and is now 9" in message
    assert "choose another --out" in message


@pytest.mark.usefixtures("no_model")
def test_a_method_whose_every_row_failed_is_named_with_its_error(
    finished: Finished, config_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = SCORES | {"attend_and_excite": []}
    design = finished(scores)
    options = ("--rounds", 1, "--seeds", 1, "--methods", ",".join(scores), "--out", design.out)
    assert command(monkeypatch, "methods", config_path, *options) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: variant attend_and_excite: every row failed, the first with RuntimeError")
    assert "no attention here" in message


def test_runs_of_other_weights_are_not_compared(finished: Finished) -> None:
    design = finished(SCORES)
    shutil.rmtree(design.trials[-1].config.run_dir)
    write_trial(design, design.trials[-1], [0.2, 0.5], replace(PROVENANCE, generator_revision="ef56"))
    with pytest.raises(UserError, match="other models"):
        write_comparison(design)


@pytest.mark.slow
def test_every_method_runs_shares_the_first_noise_replays_and_resumes(config_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "OUT"
    methods = [*METHODS, "order_statistic_50"]
    options = ["--prompts", "2", "--rounds", "1", "--seeds", "1", "--methods", ",".join(methods), "--out", str(out)]
    code, output = noisesmith("bench", "methods", config_path, "generators.steps=2", *options)
    assert code == 0, output
    runs = {label: out / "runs" / f"{label}-seed0" for label in methods}
    first = {row["id"]: row["scores"][0] for row in read_rows(runs["none"], ["id", "scores"])}
    for label, run in runs.items():
        rows = list(read_rows(run, ["id", "scores", "optimizer"]))
        assert [row["id"] for row in rows] == list(first)
        assert {row["optimizer"] for row in rows} == {"noise_diffusion" if label.startswith("order") else label}
        if label not in ("initno", "attend_and_excite"):  # these work on the first image too
            assert [row["scores"][0] for row in rows] == pytest.approx(list(first.values()), abs=1e-6)
            assert {len(row["scores"]) for row in rows} == {1 if label == "none" else 2}
        replayed = replay_row(run, load_config(run / "config.yaml"), rows[0]["id"])
        assert replayed.noise_identical
        assert replayed.max_difference <= 2  # made in a batch of 2
    whole = json.loads((out / "methods.json").read_text())
    assert whole["variants"]["noise_diffusion"]["unet_evaluations"] == 4
    assert whole["variants"]["noise_diffusion"]["seconds"] > 0
    before = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/data/*")}
    code, output = noisesmith("bench", "methods", config_path, "generators.steps=2", *options)
    assert code == 0, output
    assert "9 done, 0 to make" in output
    assert "loading models" not in output
    assert {path: path.stat().st_mtime_ns for path in out.glob("runs/*/data/*")} == before
