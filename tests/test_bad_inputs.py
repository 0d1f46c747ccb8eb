"""Every mistake a user can make ends before any model with one sentence that names its place, and exit code 2."""

from __future__ import annotations

import io
import shutil
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from noisesmith.pipeline import cli
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.prompts import Corpus
from noisesmith.pipeline.sinks import RunState
from tests.mistakes import CASES
from tests.runs import write_config


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading any model, or starting Ray, fails the test."""
    import ray
    from diffusers import DiffusionPipeline, ModelMixin
    from transformers import PreTrainedModel

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a model or Ray was started")

    for owner, name in ((DiffusionPipeline, "from_pretrained"), (ModelMixin, "from_pretrained"),
                        (PreTrainedModel, "from_pretrained"), (ray, "init")):  # fmt: skip
        monkeypatch.setattr(owner, name, refuse)


def _command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    monkeypatch.setattr(sys, "argv", ["noisesmith", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("verb", ["plan", "run"])
@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    case: str, verb: str, tmp_path: Path, tiny_sd: Path, tiny_llava: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    apply, named = CASES[case]
    path = write_config(tmp_path, tiny_sd, tiny_llava)
    config = yaml.safe_load(path.read_text())
    arguments = apply(tmp_path, config) or []
    path.write_text(yaml.safe_dump(config))
    assert _command(monkeypatch, verb, str(path), *arguments) == 2
    message = capsys.readouterr().err
    assert named in message
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert "Traceback" not in message
    assert not list(tmp_path.glob("**/*manifest*"))


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["run", "nowhere.yaml"], "nowhere.yaml"),
        (["run", "."], "directory"),
        (["verify", "nowhere"], "nowhere"),
        (["retry", "nowhere"], "nowhere"),
        (["replay", "nowhere", "00000000-00000000"], "nowhere"),
    ],
)
def test_a_wrong_path_is_one_sentence_and_exit_code_2(
    arguments: list[str], named: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _command(monkeypatch, *arguments) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert named in message
    assert message.count("\n") == 1


BILLION_LAUGHS = "\n".join(
    ["a: &a [x]", *(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in pairwise("abcdefghijkl")), "name: *l"]
)


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    "text",
    [
        "corpus: [",
        "- a\n- b\n",
        "",
        "\xff",
        "a: !!python/object:os.system x\n",
        "seed: 1" + "0" * 5000,
        "seed: [0x" + "f" * 5000 + "]",
        "name: &a [*a]",
        "a cat and a dog\n" * 100_000,
        BILLION_LAUGHS,
    ],
    ids=lambda text: text[:12],
)
def test_a_config_that_is_no_config(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text, encoding="latin-1")
    assert _command(monkeypatch, "run", str(path)) == 2
    message = capsys.readouterr().err
    assert "broken.yaml" in message
    assert message.count("\n") == 1
    # The traceback of a hostile config is printed in bounded time, too.
    assert _command(monkeypatch, "--debug", "run", str(path)) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.usefixtures("no_model")
def test_a_directory_that_cannot_be_made(
    tmp_path: Path, tiny_sd: Path, tiny_llava: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under /proc, where even root makes no directory."""
    path = write_config(tmp_path, tiny_sd, tiny_llava, output={"dir": "/proc/noisesmith"})
    assert _command(monkeypatch, "run", str(path)) == 2
    message = capsys.readouterr().err
    assert "output.dir" in message
    assert message.count("\n") == 1


@pytest.mark.usefixtures("no_model")
def test_a_plan_for_models_that_are_not_here_says_how_to_fetch_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a connection, on a machine without a GPU."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    path = Path(__file__).parents[1] / "configs" / "sd15-clipflant5.yaml"
    assert _command(monkeypatch, "plan", str(path)) == 2
    message = capsys.readouterr().err
    assert "generators.model" in message
    assert "model_index.json" in message
    assert "hf download stable-diffusion-v1-5/stable-diffusion-v1-5" in message
    assert message.count("\n") == 1


@pytest.mark.usefixtures("no_model")
def test_a_name_is_shown_as_it_is_written(
    tmp_path: Path, tiny_sd: Path, tiny_llava: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")
    generator = shutil.copytree(tiny_sd, "[bold]sd")
    scorer = shutil.copytree(tiny_llava, "[/red]:smile:")
    path = write_config(tmp_path, Path(generator), Path(scorer))
    assert _command(monkeypatch, "plan", str(path)) == 0
    shown = capsys.readouterr()
    assert "[bold]sd" in shown.out
    assert "[/red]:smile:" in shown.out
    assert not shown.err


@pytest.mark.usefixtures("no_model")
def test_a_terminal_without_unicode_is_enough(
    tmp_path: Path, tiny_sd: Path, tiny_llava: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_config(tmp_path, tiny_sd, tiny_llava)
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="ascii"))
    assert _command(monkeypatch, "plan", str(path)) == 0
    assert b"16?16 px" in shown.getvalue()


@pytest.mark.usefixtures("no_model")
def test_a_corpus_that_changes_under_a_run_stops_it_and_is_refused_until_it_is_restored(
    tmp_path: Path, tiny_sd: Path, tiny_llava: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, prompts = write_config(tmp_path, tiny_sd, tiny_llava), tmp_path / "prompts.txt"
    content = prompts.read_text()

    def change(config: RunConfig, corpus: Corpus, state: RunState) -> None:
        prompts.write_text("a yellow bear\n" + content)
        pytest.fail(f"got {next(corpus.rows())}")

    monkeypatch.setattr("noisesmith.pipeline.cli.make._drive", change)
    assert _command(monkeypatch, "run", str(path)) == 1
    message = capsys.readouterr().err
    assert "prompts.txt has changed since the run began (it differs at line 1 or after); restore it" in message
    assert message.count("\n") == 1
    assert _command(monkeypatch, "run", str(path)) == 2
    assert "started with another corpus" in capsys.readouterr().err
    prompts.write_text(content)
    monkeypatch.setattr("noisesmith.pipeline.cli.make._drive", lambda config, corpus, state: list(corpus.rows()))
    assert _command(monkeypatch, "run", str(path)) == 0
