"""Questions and contrasts through a panel: closed form, gradients, order, and the columns of the finished row."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from noisesmith.pipeline.config import RunConfig, load_config
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.generators import Decoder
from noisesmith.pipeline.load import load_models
from noisesmith.pipeline.records import Provenance, Question, Row
from noisesmith.pipeline.schema import column_types, row_schema, schema_of, to_table
from noisesmith.pipeline.scorers import Group, Member
from noisesmith.pipeline.scorers.clip_flant5 import ClipFlanT5
from noisesmith.pipeline.scorers.llava import Llava
from noisesmith.pipeline.search.combine import Combination, Opinion
from noisesmith.pipeline.search.loop import search_rows
from noisesmith.pipeline.search.score import score
from noisesmith.pipeline.search.tasks import ScoreTask
from tests.prompts.corpora import corpus, write
from tests.runs import write_config
from tests.scorers.checks import (
    STEP,
    compute_norms_in_float64,
    decoder_in_float64,
    small_latents,
    two_scorers_in_float64,
)

WEIGHTS = (1.0, 2.5)
TASKS = [
    ScoreTask("a cat and a red car", True, (Question("Is there a cat?", "Yes"), Question("a car?", "no dog"))),
    ScoreTask("a dog", True, (Question("Is there a dog or a very long question?", "No"),)),
    ScoreTask(
        "a cat above a car", True, (Question("a cat?", "Yes"), Question("a car?", "Yes"), Question("cow?", "no"))
    ),
]
Scorers = tuple[Llava, ClipFlanT5]


@pytest.fixture(scope="module")
def decoder(tiny_sd: Path) -> Decoder:
    return decoder_in_float64(tiny_sd)


@pytest.fixture(scope="module")
def scorers(tiny_llava: Path, tiny_clip_flant5: Path) -> Scorers:
    """Both in float64, with smooth preprocessing; at most three questions at once."""
    return two_scorers_in_float64(tiny_llava, tiny_clip_flant5, batch_size=3)


@pytest.fixture(autouse=True)
def _norms_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    compute_norms_in_float64(monkeypatch)


def _config(**second: Any) -> RunConfig:
    first = {"name": "llava", "weight": WEIGHTS[0], "asks": "questions"}
    other = {"name": "flan", "weight": WEIGHTS[1], "asks": "questions", "shares": "llava"} | second
    return RunConfig.model_validate({"scorers": [first, other]})


def _group(scorers: Scorers) -> Group:
    members = [Member(scorer, weight, asks_questions=True) for scorer, weight in zip(scorers, WEIGHTS, strict=True)]
    return Group(tuple(members))


def test_scores_and_atoms_are_the_closed_form_of_the_answers(decoder: Decoder, scorers: Scorers) -> None:
    latents = small_latents(3)
    opinions = score(decoder, _group(scorers), TASKS, latents)
    combination = Combination(_config())
    with torch.no_grad():
        images = decoder(latents)
        answers = [scorer.log_answers([task.questions for task in TASKS], images) for scorer in scorers]
    for position, opinion in enumerate(opinions):
        first, second = (of_scorer[position] for of_scorer in answers)
        expected = (WEIGHTS[0] * first + WEIGHTS[1] * second) / sum(WEIGHTS)
        assert combination.score(opinion.log_scores) == pytest.approx(math.exp(expected.mean()), rel=1e-9)
        assert combination.atoms([opinion]) == pytest.approx(expected.exp().tolist(), rel=1e-9)


def test_gradients_are_finite_differences(decoder: Decoder, scorers: Scorers) -> None:
    group = _group(scorers)
    latents = small_latents(1)
    tasks = TASKS[2:]
    combination = Combination(_config())

    def log_score(moved: torch.Tensor) -> float:
        (opinion,) = score(decoder, group, [replace(tasks[0], gradient=False)], moved)
        return math.log(combination.score(opinion.log_scores))

    opinions = score(decoder, group, tasks, latents)
    (slope,) = combination.slopes(opinions)
    for coordinate in range(0, latents.numel(), 41):
        delta = torch.zeros_like(latents)
        delta.view(-1)[coordinate] = STEP
        numeric = (log_score(latents + delta) - log_score(latents - delta)) / (2 * STEP)
        analytic = slope.factor * float(slope.log_gradient.view(-1)[coordinate])
        assert numeric == pytest.approx(analytic, rel=1e-4, abs=1e-9)


def test_the_order_of_a_batch_does_not_matter(decoder: Decoder, scorers: Scorers) -> None:
    group = _group(scorers)
    latents = small_latents(3)
    forward = score(decoder, group, TASKS, latents)
    backward = score(decoder, group, TASKS[::-1], latents.flip(0))[::-1]
    for one, other in zip(forward, backward, strict=True):
        assert one.log_scores == pytest.approx(other.log_scores, rel=1e-9)
        assert one.log_atoms == pytest.approx(other.log_atoms, rel=1e-9)
        assert one.log_gradient is not None
        assert other.log_gradient is not None
        assert torch.allclose(one.log_gradient, other.log_gradient, rtol=1e-6, atol=1e-12)


def test_a_scorer_of_whole_prompts_counts_in_the_score_and_not_in_the_atoms(decoder: Decoder, scorers: Scorers) -> None:
    latents = small_latents(1)
    group = Group((Member(scorers[0], WEIGHTS[0], asks_questions=True), Member(scorers[1], WEIGHTS[1])))
    (opinion,) = score(decoder, group, TASKS[:1], latents)
    with torch.no_grad():
        images = decoder(latents)
        (answers,) = scorers[0].log_answers([TASKS[0].questions], images)
        whole = float(scorers[1].log_scores([TASKS[0].prompt], images))
    assert opinion.log_scores == pytest.approx((float(answers.mean()), whole), rel=1e-9)
    assert Combination(_config(asks="prompt")).atoms([opinion]) == pytest.approx(answers.exp().tolist(), rel=1e-9)


def test_groups_in_other_workers_are_averaged_by_weight() -> None:
    opinions: list[Opinion[None]] = []
    for log_atoms in ((-1.0, -2.0), (2.5 * -3.0, 2.5 * -0.5)):
        opinions.append(Opinion((-1.0,), None, log_atoms))
    atoms = Combination(_config(shares=None)).atoms(opinions)
    assert atoms == pytest.approx([math.exp((-1 - 7.5) / 3.5), math.exp((-2 - 1.25) / 3.5)])


def test_a_contrast_takes_the_edits_of_the_task(decoder: Decoder, scorers: Scorers) -> None:
    latents = small_latents(1)
    listed = ("a dog", "a bowl on a car")
    group = Group((Member(scorers[0], contrasts=True),))
    (opinion,) = score(decoder, group, [replace(TASKS[0], edits=listed)], latents)
    with torch.no_grad():
        (expected,) = scorers[0].log_contrasts([TASKS[0].prompt], [listed], decoder(latents))
    assert opinion.log_scores[0] == pytest.approx(float(expected), rel=1e-9)


class TestSearch:
    """Through the loop, on the tiny models as a config names them."""

    def results(self, tiny_sd: Path, tiny_llava: Path, folder: Path, row: Row, **scorers: Any) -> Any:
        folder.mkdir(exist_ok=True)
        path = write_config(folder, tiny_sd, tiny_llava, rows=1, scorers={"asks": "questions", **scorers})
        config = load_config(path)
        (result,) = search_rows([row], config, load_models(config, "cpu"))
        return config, result

    def test_the_kept_image_has_the_score_of_each_question(
        self, tiny_sd: Path, tiny_llava: Path, tmp_path: Path
    ) -> None:
        listed = (Question("Is there a cat?", "Yes"), Question("Is there a car?", "No"))
        config, result = self.results(tiny_sd, tiny_llava, tmp_path, Row(0, "a", "a cat", questions=listed))
        assert [(atom.question, atom.answer) for atom in result.atoms] == [(one.question, one.answer) for one in listed]
        mean = sum(math.log(atom.score) for atom in result.atoms) / 2
        assert result.score == pytest.approx(math.exp(mean), rel=1e-6)
        schema = row_schema(config, pa.schema([]))
        assert schema_of(column_types(schema), pa.schema([])) == schema
        (written,) = to_table(result, Provenance("", "", "", "", "", ""), schema).to_pylist()
        assert [atom["score"] for atom in written["atoms"]] == [atom.score for atom in result.atoms]

    def test_prompts_without_questions_are_split_or_asked_as_a_whole(
        self, tiny_sd: Path, tiny_llava: Path, tmp_path: Path
    ) -> None:
        template = 'show "{prompt}"?'
        _, split = self.results(tiny_sd, tiny_llava, tmp_path / "a", Row(0, "a", "a cat and a dog"), question=template)
        assert [atom.question for atom in split.atoms] == ['show "a cat"?', 'show "a dog"?']
        _, whole = self.results(tiny_sd, tiny_llava, tmp_path / "b", Row(0, "a", "a dream of cats"), question=template)
        assert [atom.question for atom in whole.atoms] == ['show "a dream of cats"?']

    def test_a_run_that_asks_no_questions_has_no_such_column(self) -> None:
        assert "atoms" not in row_schema(RunConfig(), pa.schema([])).names

    def test_an_object_that_answers_none_is_refused(self, tiny_sd: Path, tiny_llava: Path, tmp_path: Path) -> None:
        class Bright:
            id = "bright"
            revision = "1"

            def log_scores(self, prompts: list[str], images: torch.Tensor) -> torch.Tensor:
                return images.flatten(1).mean(1).log()

        config = load_config(write_config(tmp_path, tiny_sd, tiny_llava, rows=1, scorers={"asks": "questions"}))
        with pytest.raises(UserError, match=r"scorers\.asks: the given object has no method log_answers"):
            load_models(config, "cpu", Bright())


class TestEditsOfTheCorpus:
    def test_are_read_from_their_column(self, tmp_path: Path) -> None:
        path = write(tmp_path / "p.jsonl", '{"prompt": "a cat", "others": ["a dog", "a cow"]}\n{"prompt": "a dog"}\n')
        first, second = corpus(path, edits="others").rows()
        assert (first.edits, second.edits) == (("a dog", "a cow"), ())

    def test_that_are_no_texts_are_refused(self, tmp_path: Path) -> None:
        path = write(tmp_path / "p.jsonl", '{"prompt": "a cat", "others": [3]}\n')
        with pytest.raises(UserError, match=r"line 1: corpus\.edits: column 'others': edit 1 is 3, but must be text"):
            corpus(path, edits="others")
