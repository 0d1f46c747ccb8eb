"""A scorer class of the user's own: found, loaded, held to the protocol, and part of a plan."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from noisesmith.pipeline.cli import main
from noisesmith.pipeline.config import RunConfig, ScorerConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.generators import find_generator, load_decoder
from noisesmith.pipeline.preflight import find_models
from noisesmith.pipeline.records import Question
from noisesmith.pipeline.scorers import Trial, find_scorer, load_scorer
from noisesmith.pipeline.search.score import score_latents
from tests.scorers.checks import alone

Write = Callable[[str], str]

BRIGHTNESS = """
class Brightness:
    id = "brightness"
    revision = "1"

    def __init__(self, device, dtype):
        self.where = (device, dtype)

    def log_scores(self, prompts, images):
        return images.mean(dim=(1, 2, 3)).clamp(0.01, 1).log()
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a module of the user's and returns the name of its class Brightness."""
    monkeypatch.syspath_prepend(tmp_path)
    written: list[str] = []

    def module(text: str) -> str:
        name = f"a_users_module_{tmp_path.name}_{len(written)}"
        written.append(name)
        (tmp_path / f"{name}.py").write_text(text)
        return f"{name}:Brightness"

    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    return module


def _config(model: str, dtype: str = "float32") -> ScorerConfig:
    return ScorerConfig.model_validate({"model": model, "allow_code": True, "dtype": dtype})


def test_the_class_is_constructed_with_device_and_dtype_and_scores_with_a_gradient(write: Write, tiny_sd: Path) -> None:
    found = find_scorer(_config(write(BRIGHTNESS), dtype="float16"))
    scorer = load_scorer(found, "cpu")
    assert (scorer.id, scorer.revision, found.has_gradient) == ("brightness", "1", True)
    assert scorer._scorer.where == ("cpu", torch.float16)  # type: ignore[attr-defined]
    decoder = load_decoder(find_generator(RunConfig.model_validate(_run(tiny_sd, "embedded")).generators), "cpu")
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)) * 0.2
    result = score_latents(decoder, alone(scorer), ["a cat", "a dog"], latents, gradient=True)
    expected = decoder(latents).mean(dim=(1, 2, 3))
    assert torch.allclose(result.scores, expected, atol=1e-6)
    assert result.log_gradients is not None
    assert result.log_gradients.abs().flatten(1).max(1).values.min() > 0


def test_code_runs_only_where_it_is_allowed(write: Write, tmp_path: Path) -> None:
    model = write(f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n{BRIGHTNESS}")
    module, _, name = model.partition(":")
    with pytest.raises(UserError, match=rf"^scorers\.model: .*{name}.*{module}.*scorers\.allow_code: true"):
        find_scorer(ScorerConfig(model=model))
    assert not (tmp_path / "ran").exists()
    find_scorer(_config(model))
    assert (tmp_path / "ran").exists()


def test_allowing_code_does_not_disown_a_run() -> None:
    plain, allowed = (
        RunConfig.model_validate({"corpus": {"source": "embedded/simple", "size": 3}, "scorers": {"allow_code": value}})
        for value in (False, True)
    )
    assert plain.digest() == allowed.digest()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("import a_package_that_is_not_there", "ModuleNotFoundError"),
        ("1 / 0", "ZeroDivisionError"),
        ("def broken(:", "SyntaxError"),
        ("class Other: pass", "AttributeError"),
    ],
)
def test_a_class_that_cannot_be_imported_is_named_with_its_cause(write: Write, text: str, why: str) -> None:
    model = write(text)
    module = model.partition(":")[0]
    with pytest.raises(
        UserError, match=rf"^scorers\.model: the class Brightness of the module {module} .*{why}"
    ) as bad:
        find_scorer(_config(model))
    assert type(bad.value.__cause__).__name__ == why


def test_a_class_without_log_scores_is_refused(write: Write) -> None:
    with pytest.raises(UserError, match=r"Brightness of the module .* is not a class with a method log_scores"):
        find_scorer(_config(write("class Brightness: pass")))


def test_a_constructor_that_fails_is_named_with_its_cause(write: Write) -> None:
    found = find_scorer(_config(write(BRIGHTNESS.replace("self, device, dtype", "self"))))
    with pytest.raises(UserError, match=r"^scorers\.model: .*Brightness' cannot be constructed \(TypeError") as bad:
        load_scorer(found, "cpu")
    assert isinstance(bad.value.__cause__, TypeError)


@pytest.mark.parametrize("name", ["id", "revision"])
def test_a_class_without_an_id_or_a_revision_is_refused(write: Write, name: str) -> None:
    found = find_scorer(_config(write(BRIGHTNESS.replace(f"    {name} =", f"    other_{name} ="))))
    with pytest.raises(UserError, match=f"has no {name}"):
        load_scorer(found, "cpu")


def test_scores_of_another_shape_are_an_error_of_the_scorer(write: Write) -> None:
    scorer = load_scorer(find_scorer(_config(write(BRIGHTNESS.replace("dim=(1, 2, 3)", "dim=(2, 3)")))), "cpu")
    with pytest.raises(TypeError, match=r"log_scores must return a tensor of shape \[2\], not \[2, 3\]"):
        scorer.log_scores(["a cat", "a dog"], torch.rand(2, 3, 8, 8))


def test_a_class_without_a_gradient_is_refused_for_methods_that_need_one(write: Write, tiny_sd: Path) -> None:
    model = write(BRIGHTNESS.replace('revision = "1"', 'revision = "1"\n    has_gradient = False'))
    run = _run(tiny_sd, model)
    with pytest.raises(UserError, match=r"^optimizer.method: noise_diffusion needs the score's gradient"):
        find_models(RunConfig.model_validate(run))
    find_models(RunConfig.model_validate(run | {"optimizer": {"method": "random_diffusion"}}))


def test_a_plan_goes_on_without_the_cost_of_a_class(
    write: Write, tmp_path: Path, tiny_sd: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write(BRIGHTNESS)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(_run(tiny_sd, model) | {"output": {"dir": str(tmp_path / "run")}}))
    monkeypatch.setattr(sys, "argv", ["noisesmith", "plan", str(path)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    plan = " ".join(capsys.readouterr().out.split())
    assert "parameters only; without scorers.model (" in plan
    assert model in plan.replace(" ", "")


def _run(generator: Path, scorer: str) -> dict[str, object]:
    return {
        "corpus": {"source": "embedded/simple", "size": 3},
        "generators": {"model": str(generator), "num_cpus": 0.5},
        "scorers": {"model": scorer, "allow_code": True, "num_cpus": 0.5},
    }


@pytest.mark.parametrize("slip", ["images.missing", "images.numpy()", "[image.item() for image in images]; images"])
def test_a_class_that_fails_at_its_first_image_is_named_when_it_is_loaded(write: Write, slip: str) -> None:
    trial = Trial(8, 8, torch.float32, gradient=True)
    found = find_scorer(_config(write(BRIGHTNESS.replace("return images", f"{slip}\n        return images"))))
    with pytest.raises(UserError, match=r"^scorers\.model: .* cannot score an image \(.*\); mend its log_scores$"):
        load_scorer(found, "cpu", trial)
    load_scorer(find_scorer(_config(write(BRIGHTNESS))), "cpu", trial)


class TestQuestions:
    ANSWERS = """
    def log_answers(self, questions, images):
        return [image.mean().log().expand(len(asked)) for asked, image in zip(questions, images)]
"""
    ASKED = ((Question("Is there a cat?", "Yes"), Question("How many?", "two")), (Question("Is there a dog?", "Yes"),))

    def test_a_class_that_answers_questions_is_asked_them(self, write: Write) -> None:
        config = ScorerConfig(model=write(BRIGHTNESS + self.ANSWERS), allow_code=True, asks="questions")
        scorer: Any = load_scorer(find_scorer(config), "cpu", Trial(8, 8, torch.float32, gradient=True))
        images = torch.full((2, 3, 8, 8), 0.5)
        assert [len(answers) for answers in scorer.log_answers(self.ASKED, images)] == [2, 1]

    def test_one_that_does_not_is_refused(self, write: Write) -> None:
        config = ScorerConfig(model=write(BRIGHTNESS), allow_code=True, asks="questions")
        with pytest.raises(UserError, match=r"scorers\.asks: .* has no method log_answers; set asks: prompt"):
            find_scorer(config)

    def test_answers_of_another_shape_are_refused(self, write: Write) -> None:
        wrong = self.ANSWERS.replace("expand(len(asked))", "expand(3)")
        config = ScorerConfig(model=write(BRIGHTNESS + wrong), allow_code=True, asks="questions")
        with pytest.raises(UserError, match=r"log_answers must return a list of tensors of the shapes \[\(1,\)\]"):
            load_scorer(find_scorer(config), "cpu", Trial(8, 8, torch.float32, gradient=False))
