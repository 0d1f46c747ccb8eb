"""The questions that are counted for a row are those that its scorers are asked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.records import Question, Row
from noisesmith.pipeline.scorers import Asked, find_scorer, group_of
from noisesmith.pipeline.scorers.llava import Llava
from noisesmith.pipeline.search.asking import edits_of, passes_per_image, questions_of
from noisesmith.pipeline.text.edits import edits
from noisesmith.pipeline.text.questions import split

PROMPT = "a red cat above a dog"
ROWS = [
    Row(0, "0-a", PROMPT),
    Row(1, "1-b", "a dog"),
    Row(2, "2-c", "a cat", questions=(Question("Is it a cat?", "Yes"), Question("Is it?", "Yes")), edits=("a dog",)),
]
WAYS = [{}, {"readout": "yes_no"}, {"readout": "caption"}, {"readout": "contrastive"}, {"asks": "questions"}]


def test_a_prompt_a_question_and_an_edit_are_one_pass_each() -> None:
    scorers = [{"name": f"s{number}", "model": "m", **way} for number, way in enumerate(WAYS)]
    config = RunConfig.model_validate({"scorers": scorers})
    assert passes_per_image(ROWS[0], config) == 3 + (1 + len(edits(PROMPT))) + len(split(PROMPT, "{prompt}"))
    assert passes_per_image(ROWS[1], config) == 3 + 1 + 1
    assert passes_per_image(ROWS[2], config) == 3 + 2 + 2
    assert passes_per_image(ROWS[0], RunConfig()) == 1


def test_a_model_is_asked_as_often_as_is_counted(tiny_llava: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    logits = Llava.logits

    def counted(self: Llava, questions: list[str], images: Tensor, labels: Tensor) -> Tensor:
        asked.extend(questions)
        return logits(self, questions, images, labels)

    scorers = [{"name": f"s{number}", "model": str(tiny_llava), **way} for number, way in enumerate(WAYS)]
    config = RunConfig.model_validate({"scorers": scorers})
    group = group_of(config.panel, [Llava(find_scorer(member), "cpu") for member in config.panel], None)
    monkeypatch.setattr(Llava, "logits", counted)
    for row in ROWS:
        asked.clear()
        with torch.no_grad():
            group.answer(
                Asked([row.prompt], [questions_of(row, config)], [edits_of(row, config)]), torch.rand(1, 3, 16, 16)
            )
        assert len(asked) == passes_per_image(row, config), row.prompt


def test_a_question_is_tokenised_once_however_many_images_are_asked_about(
    tiny_llava: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    as_before = Llava.read

    def counted(self: Llava, text: str, image_text: str = "") -> tuple[list[int], ...]:
        read.append(text)
        return as_before(self, text, image_text)

    monkeypatch.setattr(Llava, "read", counted)
    scorer = Llava(find_scorer(RunConfig.model_validate({"scorers": {"model": str(tiny_llava)}}).panel[0]), "cpu")
    with torch.no_grad():
        for _ in range(3):
            scorer.log_scores(["a cat", "a dog", "a cat"], torch.rand(3, 3, 16, 16))
    assert len(read) == 2
