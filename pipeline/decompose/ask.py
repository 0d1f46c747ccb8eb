"""Splits one prompt into questions: by a served language model, whose answer is checked, else by rules."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from noisesmith.pipeline.config import QUESTION
from noisesmith.pipeline.models.locate import ModelSource
from noisesmith.pipeline.models.server import Client, Key, RequestRefusedError, ServerError
from noisesmith.pipeline.prompts.questions import question_list
from noisesmith.pipeline.records import Question
from noisesmith.pipeline.text.questions import names_something, split, strange_words

RETRIES = 5  # of a request that the server cannot take now
MOST_TOKENS = 2048  # of an answer
HARMLESS = "a cat"  # a prompt that no server refuses
Origin = Literal["model", "retry", "rules", "whole"]
INSTRUCTION = """You split the description of an image into questions that check whether an image shows all of it.

Answer with a JSON list and nothing else. Each item is an object with "question" and "answer": one question for each
thing, each count, each attribute and each relation that the description states. The answer is that of a right image:
"Yes" wherever a question can be answered by yes or no, otherwise one word of the description. Use the words of the
description for whatever it names, and ask for nothing that it does not state.

Example. Description: three cats on a red sofa
[{"question": "Are there any cats?", "answer": "Yes"},
 {"question": "How many cats are there?", "answer": "three"},
 {"question": "Is there a sofa?", "answer": "Yes"},
 {"question": "Is the sofa red?", "answer": "Yes"},
 {"question": "Are the cats on the sofa?", "answer": "Yes"}]"""


@dataclass(frozen=True)
class Decomposed:
    """The questions of one prompt and where they come from.

    Attributes:
        origin: the model at the first try or at its retry, or the rules; ``whole`` where these have found none.
    """

    questions: tuple[Question, ...]
    origin: Origin


class Asker:
    """Asks a served language model for the questions of a prompt; threads may share it.

    Args:
        source: the server, from ``find_server``.
        api_key_env: the environment variable that holds its key, where it wants one.
    """

    def __init__(self, source: ModelSource, api_key_env: str | None) -> None:
        self.model = source.id
        self._client = Client(source.location, Key(api_key_env), RETRIES)
        self._takes_requests = False

    def decompose(self, prompt: str) -> Decomposed:
        """The model's questions; those of the rules where its answer fails the checks twice, or it refuses this prompt.

        Raises:
            ServerError: the server does not answer, or refuses every prompt.
        """
        try:
            return self._asked(prompt)
        except RequestRefusedError:
            if not self._takes_requests:
                self._answer(_messages(HARMLESS))  # is it this prompt, or whatever we ask?
            return by_rules(prompt)

    def _asked(self, prompt: str) -> Decomposed:
        messages = _messages(prompt)
        origins: tuple[Origin, Origin] = ("model", "retry")
        for origin in origins:
            answer = self._answer(messages)
            try:
                return Decomposed(checked_questions(answer, prompt), origin)
            except ValueError as error:
                messages.append({"role": "assistant", "content": answer})
                messages.append({"role": "user", "content": f"This cannot be used: {error}. Answer again."})
        return by_rules(prompt)

    def _answer(self, messages: list[dict[str, str]]) -> str:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": messages,
            "max_tokens": MOST_TOKENS,
            "temperature": 0,
        }
        answered = self._client.post("chat/completions", body)
        self._takes_requests = True
        try:
            return str(answered["choices"][0]["message"]["content"] or "")
        except (KeyError, IndexError, TypeError):
            raise ServerError(
                f"{self._client.url} answers without a message; is it an OpenAI-compatible server?"
            ) from None


def _messages(prompt: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": f"Description: {prompt}"}]


def by_rules(prompt: str) -> Decomposed:
    """The questions of the rules; none where they do not understand the prompt."""
    questions = split(prompt, QUESTION)
    return Decomposed(questions, "rules" if questions else "whole")


def checked_questions(answer: str, prompt: str) -> tuple[Question, ...]:
    """Read the questions in a model's answer, each once. What it has thought before, in ``<think>`` tags, is left out.

    Raises:
        ValueError: there is no list of questions with answers, or a question is about what the prompt does not name.
    """
    answer = answer.rpartition("</think>")[2]
    start = answer.find("[")
    stop = answer.rfind("]") + 1
    if start < 0 or stop <= start:
        raise ValueError("it holds no JSON list")
    try:
        items = json.loads(answer[start:stop])
    except (ValueError, RecursionError):
        raise ValueError("it is not valid JSON") from None
    questions = tuple(dict.fromkeys(question_list(items)))
    if not questions:
        raise ValueError("the list is empty")
    for number, question in enumerate(questions, 1):
        strange = strange_words(question.question, prompt)
        if strange:
            raise ValueError(f"the description does not name {', '.join(map(repr, strange))}")
        if not names_something(question.question, prompt):
            raise ValueError(f"question {number} names nothing of the description")
    return questions
