"""A served model as scorer and judge, against a real server process on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from noisesmith.pipeline.config import GeneratorConfig, JudgeConfig, RunConfig, ScorerConfig, dump_config
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.generators import find_generator, load_decoder
from noisesmith.pipeline.images import to_uint8
from noisesmith.pipeline.models import server
from noisesmith.pipeline.models.server import ServerError
from noisesmith.pipeline.preflight import find_models
from noisesmith.pipeline.records import Question
from noisesmith.pipeline.scorers import Trial, find_judge, find_scorer, load_judge, load_scorer
from noisesmith.pipeline.search.score import score_latents
from tests.scorers.checks import alone

PROMPTS = ["a cat and a red car", "a dog", "a blue bowl under a cat"]
KEY = "sk-not-to-be-seen"

Serve = Callable[..., str]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Start a server in a mode and return its URL."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(server, "BACKOFF", 0.01)
    processes = []

    def start(mode: str = "good", *models: str, key: str = "") -> str:
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("stub_server.py")), mode, *(models or ("tiny-vlm",))],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "STUB_KEY": key},
        )
        processes.append(process)
        assert process.stdout is not None
        return f"http://127.0.0.1:{int(process.stdout.readline())}/v1"

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def _load(url: str, **more: Any) -> Any:
    return load_scorer(find_scorer(ScorerConfig(model=url, **more)), "cpu")


def _pictures(*reds: int) -> torch.Tensor:
    images = torch.rand(len(reds), 3, 24, 32, generator=torch.Generator().manual_seed(0))
    images[:, 0] = torch.tensor(reds)[:, None, None] / 255
    return images


@pytest.mark.parametrize("readout", ["yes", "yes_no"])
def test_score_sums_the_spellings_of_each_image(serve: Serve, readout: str) -> None:
    scorer = _load(serve(), readout=readout)
    scores = scorer.log_scores(PROMPTS, _pictures(40, 120, 200)).exp()
    for score, red in zip(scores.tolist(), (40 / 255, 120 / 255, 200 / 255), strict=True):
        yes, no = 0.9 * red, 0.6 * (1 - red)
        assert score == pytest.approx(yes if readout == "yes" else yes / (yes + no), abs=1e-6)
    assert (scorer.id, scorer.revision) == ("tiny-vlm", "served")


def test_a_word_that_is_not_listed_counts_as_zero(serve: Serve) -> None:
    url = serve()
    black_and_red = _pictures(0, 255)
    assert _load(url).log_scores(PROMPTS[:2], black_and_red).exp().tolist() == pytest.approx([0.0, 0.9])
    assert _load(url, readout="yes_no").log_scores(PROMPTS[:2], black_and_red).exp().tolist() == [0.0, 1.0]


def test_it_scores_latents_but_has_no_gradient(serve: Serve, tiny_sd: Path) -> None:
    scorer = _load(serve())
    decoder = load_decoder(find_generator(GeneratorConfig(model=str(tiny_sd))), "cpu")
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3)) * 0.15
    result = score_latents(decoder, alone(scorer), PROMPTS[:2], latents, gradient=False)
    reds = to_uint8(decoder(latents))[..., 0].double().mean((1, 2)) / 255
    assert result.scores[0].tolist() == pytest.approx((0.9 * reds).tolist(), abs=1e-6)
    with pytest.raises(NotImplementedError, match="no gradient"):
        score_latents(decoder, alone(scorer), PROMPTS[:2], latents, gradient=True)


def test_a_busy_server_is_asked_again(serve: Serve) -> None:
    scores = _load(serve("busy")).log_scores(PROMPTS[:1], _pictures(120)).exp()
    assert float(scores) == pytest.approx(0.9 * 120 / 255, abs=1e-6)


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("down", "status 503"),
        ("chatty", r"tiny-vlm answers neither yes nor no .*'<think>'.*turn its thinking off"),
        ("no_logprobs", "without the log-probabilities"),
        ("html", "no JSON"),
    ],
)
def test_nonsense_is_an_error_that_says_what_is_wrong(serve: Serve, mode: str, message: str) -> None:
    scorer = _load(serve(mode))
    with pytest.raises(ServerError, match=message):
        scorer.log_scores(PROMPTS, _pictures(40, 120, 200))


def test_a_server_that_cannot_score_is_a_users_mistake_once_a_run_loads_it(serve: Serve) -> None:
    trial = Trial(8, 8, torch.float32, gradient=False)
    found = find_scorer(ScorerConfig(model=serve("no_logprobs")))
    with pytest.raises(UserError, match=r"^scorers\.model: 'tiny-vlm' cannot score an image \(ServerError: .*log-prob"):
        load_scorer(found, "cpu", trial)
    load_scorer(find_scorer(ScorerConfig(model=serve())), "cpu", trial)


def test_a_slow_server_is_given_up(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = _load(serve("slow"))
    monkeypatch.setattr(server, "TIMEOUT", (5.0, 0.2))
    with pytest.raises(ServerError, match=r"does not answer .*ReadTimeoutError"):
        scorer.log_scores(PROMPTS[:1], _pictures(40))


def test_a_judge_that_cannot_tell_says_so(serve: Serve) -> None:
    for mode, expected in (("good", [0.9 * 40 / 255, 0.9 * 120 / 255]), ("chatty", [None, None])):
        judge = load_judge(find_judge(JudgeConfig(name="served", model=serve(mode)), ScorerConfig()), "cpu")
        assert judge.judge(PROMPTS[:2], _pictures(40, 120)) == pytest.approx(expected)


def test_the_served_model_is_found_or_named(serve: Serve) -> None:
    url = serve("good", "one", "two")
    assert find_scorer(ScorerConfig(model=url, server_model="two")).source.id == "two"
    judge = find_judge(JudgeConfig(name="j", model=f"{url}/", server_model="one"), ScorerConfig())
    assert (judge.source.location, judge.revision) == (url, "served")
    with pytest.raises(UserError, match=r"^scorers.server_model: .* serves one, two; name one of them"):
        find_scorer(ScorerConfig(model=url))
    with pytest.raises(UserError, match=r"^judges.j.server_model: .* serves one, two and not 'three'"):
        find_judge(JudgeConfig(name="j", model=url, server_model="three"), ScorerConfig())
    with pytest.raises(UserError, match=r"^scorers.model: .*status 404.*up to /v1"):
        find_scorer(ScorerConfig(model=url.removesuffix("/v1")))


def test_a_server_that_is_not_there_is_a_users_mistake(serve: Serve) -> None:
    with pytest.raises(UserError, match=r"^scorers.model: .*does not answer.*start the server"):
        find_scorer(ScorerConfig(model="http://127.0.0.1:1/v1"))


def test_the_key_is_sent_and_never_shown(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    url = serve("good", key=KEY)
    with pytest.raises(UserError, match="status 401"):
        find_scorer(ScorerConfig(model=url))
    with pytest.raises(UserError, match=r"^scorers.api_key_env: the environment variable TEST_KEY is not set"):
        find_scorer(ScorerConfig(model=url, api_key_env="TEST_KEY"))
    monkeypatch.setenv("TEST_KEY", f"{KEY}\n")
    scorer = _load(url, api_key_env="TEST_KEY")
    assert float(scorer.log_scores(PROMPTS[:1], _pictures(120)).exp()) == pytest.approx(0.9 * 120 / 255, abs=1e-6)
    with pytest.raises(ServerError, match=r"status 400 .*Bearer \*\*\*") as caught:
        _load(serve("echo", key=KEY), api_key_env="TEST_KEY").log_scores(PROMPTS[:1], _pictures(120))
    assert KEY not in str(caught.value)
    monkeypatch.setenv("TEST_KEY", "sk\nsecret")  # no value of a header
    with pytest.raises(UserError, match=r"^scorers.api_key_env: TEST_KEY does not fit into an HTTP header") as refused:
        find_scorer(ScorerConfig(model=url, api_key_env="TEST_KEY"))
    assert "secret" not in str(refused.value)


def test_a_key_in_a_config_is_refused_and_not_repeated() -> None:
    for wrong in ({"model": "http://h/v1", "api_key_env": KEY}, {"model": f"http://user:{KEY}@h/v1"}):
        with pytest.raises(ValidationError) as caught:
            ScorerConfig(**wrong)
        assert KEY not in caught.value.errors()[0]["msg"]


@pytest.mark.parametrize("fields", [{"server_model": "x"}, {"api_key_env": "X"}])
def test_a_servers_fields_without_a_server_are_refused(fields: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="is for a server"):
        ScorerConfig(**fields)
    with pytest.raises(ValidationError, match="is for a server"):
        JudgeConfig(name="j", model="embedded/judge", **fields)


def _run_config(method: dict[str, Any], **scorers: Any) -> RunConfig:
    return RunConfig.model_validate(
        {"corpus": {"source": "embedded/simple", "size": 3}, "optimizer": method, "scorers": scorers}
    )


def test_where_the_key_lies_may_change_on_resume() -> None:
    configs = [_run_config({}, model="http://h/v1", api_key_env=name) for name in (None, "A_KEY")]
    assert configs[0].digest() == configs[1].digest()
    assert "A_KEY" in dump_config(configs[1])
    judges = [
        RunConfig.model_validate(
            {
                "corpus": {"source": "embedded/simple", "size": 3},
                "judges": [{"name": "j", "model": "http://h/v1", "server_model": "m", "api_key_env": name}],
            }
        )
        for name in (None, "A_KEY")
    ]
    assert judges[0].digest() == judges[1].digest()


@pytest.mark.parametrize("method", ["noise_diffusion", "pgd", "mean_variance"])
def test_a_method_that_needs_the_gradient_is_refused_by_name(serve: Serve, method: str) -> None:
    with pytest.raises(UserError, match=rf"^optimizer.method: {method} needs the score's gradient.*random_diffusion"):
        find_models(_run_config({"method": method}, model=serve()))


@pytest.mark.parametrize(
    "method", [{"method": "random_sampling"}, {"method": "random_diffusion"}, {"method": "none"}, {"rounds": 0}]
)
def test_a_method_without_a_gradient_is_accepted(serve: Serve, method: dict[str, Any]) -> None:
    assert find_models(_run_config(method, model=serve())).scorers[0].source.id == "tiny-vlm"


def test_questions_are_read_from_the_listed_tokens(serve: Serve) -> None:
    """The stub sees how red an image is; "Maybe" has 0.1, and "Yesterday" begins with no listed token but itself."""
    asked = [
        [Question("Is it red?", "Yes"), Question("Is it red?", "no")],
        [Question("Is it red?", "maybe so"), Question("Is it red?", "Blue")],
    ]
    images = _pictures(204, 51)
    first, second = _load(serve(), asks="questions").log_answers(asked, images)
    assert first.exp().tolist() == pytest.approx([0.9 * 0.8, 0.6 * 0.2], rel=1e-3)
    assert second.exp().tolist() == pytest.approx([0.1, 0.0], rel=1e-3)
    (normalised, _) = _load(serve(), asks="questions", readout="yes_no").log_answers(asked, images)
    assert normalised.exp().tolist() == pytest.approx([0.72 / 0.84, 0.12 / 0.84], rel=1e-3)
