"""What a row's scorers are asked beyond its prompt."""

from __future__ import annotations

from collections.abc import Sequence

from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.records import Atom, Question, Row
from noisesmith.pipeline.text.edits import edits
from noisesmith.pipeline.text.questions import or_whole


def questions_of(row: Row, config: RunConfig) -> tuple[Question, ...]:
    """The questions about a row's prompt, at least one where a scorer asks them, else none.

    They are those of the corpus, those of the rules, or one about the whole prompt. All scorers ask the same; where the
    scorer's own question is needed, it is that of the first scorer that asks.
    """
    for member in config.panel:
        if member.asks == "questions":
            return or_whole(row.questions, row.prompt, member.question)
    return ()


def edits_of(row: Row, config: RunConfig) -> tuple[str, ...]:
    """Prompts that a row's images must not show, where a scorer needs them: those of the corpus, or of the rules."""
    if any(member.readout == "contrastive" for member in config.panel):
        return row.edits or edits(row.prompt)
    return ()


def passes_per_image(row: Row, config: RunConfig) -> int:
    """How many questions all scorers together are asked about each image of a row.

    One about a whole prompt, one per question about its parts, and where the prompt is contrasted one about it and one
    per edit.
    """
    questions = len(questions_of(row, config))
    texts = 1 + len(edits_of(row, config))
    passes = 0
    for member in config.panel:
        if member.asks == "questions":
            passes += questions
        elif member.readout == "contrastive":
            passes += texts
        else:
            passes += 1
    return passes


def atoms_of(questions: Sequence[Question], scores: Sequence[float]) -> tuple[Atom, ...]:
    """Each question with its score; none where no scorer asks any."""
    return tuple(Atom(asked.question, asked.answer, score) for asked, score in zip(questions, scores, strict=True))
