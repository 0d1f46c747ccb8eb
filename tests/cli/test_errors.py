"""How the command ends at a mistake of the user, at a run that cannot go on, and at a bug of ours."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from noisesmith.actors import rescore
from noisesmith.pipeline import cli
from noisesmith.pipeline.cli import embedded
from noisesmith.pipeline.config import JudgeConfig
from noisesmith.pipeline.errors import RunError, UserError
from tests.sinks.conftest import Run


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> object:
    monkeypatch.setattr(sys, "argv", ["noisesmith", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def fail_with(monkeypatch: pytest.MonkeyPatch, error: Exception, cause: Exception) -> None:
    """Let every command that reads a config fail with ``error``, whose ``cause`` it hides from users."""

    def read_settings(*_: object) -> None:
        try:
            raise cause
        except type(cause):
            raise error from None

    monkeypatch.setattr("noisesmith.pipeline.cli.planning.read_settings", read_settings)


@pytest.mark.parametrize(("error", "code"), [(UserError("seed: too large"), 2), (RunError("the disk is full"), 1)])
def test_an_error_is_one_sentence(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(monkeypatch, error, OSError(28, "No space left"))
    assert command(monkeypatch, "plan", "x.yaml") == code
    message = capsys.readouterr().err
    assert message.startswith(f"error: {error}")
    assert message.count("\n") == 1


@pytest.mark.parametrize(("error", "code"), [(UserError("seed: too large"), 2), (RunError("the disk is full"), 1)])
def test_debug_adds_the_traceback_and_hidden_causes(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(monkeypatch, error, OSError(28, "No space left \x1b[2J"))
    assert command(monkeypatch, "--debug", "plan", "x.yaml") == code
    *traceback, last = capsys.readouterr().err.splitlines()
    assert last.startswith(f"error: {error}")
    assert "OSError: [Errno 28] No space left \\x1b[2J" in traceback, "control characters are escaped"
    assert any(line.startswith(f'  File "{__file__}", line ') for line in traceback)
    assert f"noisesmith.pipeline.errors.{type(error).__name__}: {error}" in traceback


def test_a_bug_of_ours_is_no_mistake_of_the_user(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read_settings(*_: object) -> None:
        raise KeyError("latents")

    monkeypatch.setattr("noisesmith.pipeline.cli.planning.read_settings", read_settings)
    monkeypatch.setattr(sys, "argv", ["noisesmith", "plan", "x.yaml"])
    with pytest.raises(KeyError) as bug:
        cli.main()
    (note,) = bug.value.__notes__
    assert "probably a bug in noisesmith" in note
    assert "What is written is safe" in note
    assert "logs/run.jsonl" in note
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("verb", ["train", "evaluate"])
def test_training_code_that_is_not_installed_is_one_sentence(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(embedded, "TRAINING", "noisesmith.pipeline.embedded.absent")
    arguments = ["--out", str(tmp_path / "out")] if verb == "train" else []
    assert command(monkeypatch, "embedded", verb, *arguments) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: embedded: ")
    assert "clone the repository" in message
    assert message.count("\n") == 1


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[JudgeConfig]:
    """The judges that ``noisesmith rescore`` was given, once it has read its options."""
    found: list[JudgeConfig] = []

    def judge_run(_config: object, judges: tuple[JudgeConfig, ...], *_: object, **__: object) -> int:
        found.extend(judges)
        raise RunError("no run is judged here")

    monkeypatch.setattr(rescore, "rescore", judge_run)
    return found


def test_a_judge_of_rescore_may_have_every_field_of_a_config(
    tmp_path: Path, judged: list[JudgeConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path, [{"prompt": "a cat"}])
    run.writer()
    served = {"name": "big", "model": "http://127.0.0.1:8000/v1", "server_model": "m", "api_key_env": "KEY"}
    pinned = "{name: clip, model: openai/clip-vit-base-patch32, revision: 3d74acf}"
    options = ["--judge", str(served), "--judge", pinned, "--judge", "eye=embedded/judge"]
    assert command(monkeypatch, "rescore", run.dir, *options) == 1
    assert judged == [
        JudgeConfig.model_validate(served),
        JudgeConfig(name="clip", model="openai/clip-vit-base-patch32", revision="3d74acf"),
        JudgeConfig(name="eye", model="embedded/judge"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clip", "write it as NAME=MODEL, such as clip=openai"),
        ("=x", "name: must match"),
        ("{name: big}", "model: is required"),
        ("{name: big, model: x, server_model: m}", "server_model"),
        ("{name: big, model: x, colour: red}", "colour"),
        ("{name: big, name: small, model: x}", "'name'"),
        ("{name: big", "not valid YAML"),
        ("{}", "name: is required"),
    ],
)
def test_a_wrong_judge_of_rescore_is_one_sentence(
    text: str, message: str, tmp_path: Path, judged: list[JudgeConfig], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    run = Run(tmp_path, [{"prompt": "a cat"}])
    run.writer()
    assert command(monkeypatch, "rescore", run.dir, "--judge", text) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: --judge {text}: ")
    assert message in said
    assert said.count("\n") == 1
    assert not judged
