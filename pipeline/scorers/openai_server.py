"""Any server that speaks the OpenAI protocol (vLLM, SGLang): P("Yes") read from the first token's log-probabilities.

``GET URL/models`` names the models, ``POST URL/chat/completions`` answers one image and question. A server has no
gradient to give, so it can judge, or steer a method that needs none.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from noisesmith.pipeline.images import encode_png, to_uint8
from noisesmith.pipeline.lazily import torch
from noisesmith.pipeline.models.libraries import Model
from noisesmith.pipeline.models.server import CONCURRENCY, Client, Key, ServerError
from noisesmith.pipeline.records import Question
from noisesmith.pipeline.scorers.family import FoundScorer, ScorerFamily

if TYPE_CHECKING:
    from torch import Tensor

RETRIES = 5  # waits 0, 1, 2, 4 and 8 seconds, or what the server asks for up to a minute
TOP = 20  # most that vLLM, SGLang and OpenAI list by default
MARKS = " \t\r\n▁Ġ"  # spaces, and how tokenizers spell one at the start of a word


class OpenAIServer(ScorerFamily):
    """P("Yes") as the first token of a served model's answer.

    The probabilities of every listed spelling count: "Yes", "yes", "YES", with and without a leading space, and the
    same for no; ``yes_no`` divides by their sum. The server lists the :data:`TOP` likeliest tokens: a word that is not
    among them counts as 0. The server scales the image and words the conversation as it sees fit. It does not say
    which weights it holds, so ``revision`` is "served".
    """

    has_gradient = False
    is_remote = True
    answers_questions = True
    trial_errors = (ServerError,)
    trial_remedy = "check the server and its log"

    def __init__(self, found: FoundScorer, device: str) -> None:
        self.id = found.source.id
        self.revision = found.revision
        self.question = found.question
        self.readout = found.readout
        self.hint = found.hint
        self._client = Client(found.source.location, Key(found.api_key_env), RETRIES)

    @classmethod
    def revision_of(cls, found: FoundScorer) -> str:
        return "served"

    @classmethod
    def without_weights(cls, found: FoundScorer) -> Model | None:
        return None

    def log_scores(self, prompts: list[str], images: Tensor) -> Tensor:
        """As :meth:`log_scores`, without a gradient.

        Raises:
            ServerError: no answer, no log-probabilities, or neither yes nor no among them.
            NotImplementedError: ``images`` want a gradient.
        """
        if images.requires_grad:
            raise NotImplementedError("a server returns no gradient")
        answers = self._ask_all(self._questions(prompts), images)
        for answer in answers:
            if not any(_yes_and_no(answer)):
                likeliest = max(answer, key=answer.__getitem__, default="")
                raise ServerError(
                    f"{self.id} answers neither yes nor no (its likeliest first token is {likeliest!r}); "
                    "turn its thinking off, or ask a question that is answered by yes or no"
                )
        scores = [self._score(*_yes_and_no(answer)) for answer in answers]
        return torch.tensor(scores, dtype=torch.float64).log().to(images.device, torch.float32)

    def judge(self, prompts: list[str], images: Tensor) -> list[float | None]:
        """P("Yes"), or ``None`` where the answer is neither yes nor no."""
        pairs = [_yes_and_no(answer) for answer in self._ask_all(self._questions(prompts), images)]
        return [self._score(yes, no) if yes or no else None for yes, no in pairs]

    def _score(self, yes: float, no: float) -> float:
        return yes / (yes + no) if self.readout == "yes_no" else min(yes, 1.0)

    def log_answers(self, questions: Sequence[Sequence[Question]], images: Tensor) -> list[Tensor]:
        """log P(answer) ``[n]`` of the n questions about each image; see :class:`QuestionScorer`.

        An answer other than yes and no has the probability of the listed first tokens with which it may begin.

        Raises:
            ServerError: no answer, or no log-probabilities.
            NotImplementedError: ``images`` want a gradient.
        """
        if images.requires_grad:
            raise NotImplementedError("a server returns no gradient")
        counts = [len(about_image) for about_image in questions]
        asked = [question for about_image in questions for question in about_image]
        texts = [f"{item.question} {self.hint}".rstrip() for item in asked]
        shown = images.repeat_interleave(torch.tensor(counts, device=images.device), dim=0)
        scores = []
        for item, tokens in zip(asked, self._ask_all(texts, shown), strict=True):
            scores.append(self._score_answer(item.answer.strip().casefold(), tokens))
        logs = torch.tensor(scores, dtype=torch.float64).log().to(images.device, torch.float32)
        return list(logs.split(counts))

    def _score_answer(self, answer: str, tokens: dict[str, float]) -> float:
        if answer in ("yes", "no"):
            pair = _yes_and_no(tokens)
            if not any(pair):
                return 0.0
            return self._score(*pair) if answer == "yes" else self._score(*reversed(pair))
        beginnings = 0.0
        for token, probability in tokens.items():
            word = token.strip(MARKS).casefold()
            if word and answer.startswith(word):
                beginnings += probability
        return min(beginnings, 1.0)

    def _questions(self, prompts: list[str]) -> list[str]:
        return [self.question.replace("{prompt}", prompt) for prompt in prompts]

    def _ask_all(self, questions: list[str], images: Tensor) -> list[dict[str, float]]:
        pngs = [encode_png(image) for image in to_uint8(images)]
        with ThreadPoolExecutor(min(len(questions), CONCURRENCY)) as pool:
            return list(pool.map(self._ask, questions, pngs))

    def _ask(self, question: str, png: bytes) -> dict[str, float]:
        """The listed first tokens of the answer and their probabilities."""
        image = {"url": f"data:image/png;base64,{base64.b64encode(png).decode()}"}
        content = [{"type": "image_url", "image_url": image}, {"type": "text", "text": question}]
        body = {
            "model": self.id,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": 1,
            "temperature": 1,  # some servers list the probabilities after temperature and top_p: leave them as they are
            "top_p": 1,
            "logprobs": True,
            "top_logprobs": TOP,
        }
        answer = self._client.post("chat/completions", body)
        try:
            listed = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
            tokens: dict[str, float] = {}
            for entry in listed:
                tokens[entry["token"]] = tokens.get(entry["token"], 0.0) + math.exp(entry["logprob"])
        except (KeyError, IndexError, TypeError, OverflowError):
            raise ServerError(
                f"{self._client.url} answers without the log-probabilities of its first token; serve {self.id} where "
                "logprobs and top_logprobs are supported, as vLLM and SGLang do"
            ) from None
        return tokens


def _yes_and_no(tokens: dict[str, float]) -> tuple[float, float]:
    """P(yes) and P(no), over their spellings."""
    found = {"yes": 0.0, "no": 0.0}
    for token, probability in tokens.items():
        word = token.strip(MARKS).casefold()
        if word in found:
            found[word] += probability
    return found["yes"], found["no"]
