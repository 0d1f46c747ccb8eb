"""How much of a prompt a model reads, counted by the model's own tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from noisesmith.pipeline.models.libraries import Tokenizer
from noisesmith.pipeline.text.control_tokens import plain

_NO_LIMIT = 10**9  # a tokenizer whose files name no length says 10³⁰


@dataclass(frozen=True)
class TextLimit:
    """The tokens that one text encoder or language model reads. Every model family reports one for each that it has.

    Attributes:
        reader: who reads, by the name of the model's part: ``text_encoder_2``.
        tokens: the most that it reads, special tokens included; ``None`` where it states no limit.
        tokenizer: counts them.
        truncates: whether the rest is cut off. Otherwise it is read, beyond the length that the model was made for.
        template: the text around the prompt.
        lowers: whether the prompt is read in lower case.
    """

    reader: str
    tokens: int | None
    tokenizer: Tokenizer
    truncates: bool = True
    template: str = "{prompt}"
    lowers: bool = False

    def excess(self, prompts: Sequence[str]) -> list[int]:
        """By how many tokens each prompt is longer than what is read; 0 where all of it is read."""
        limit = self.tokens
        if limit is None:
            return [0] * len(prompts)
        excess = [0] * len(prompts)
        uncertain = [place for place, prompt in enumerate(prompts) if not self._surely_fits(prompt, limit)]
        if uncertain:
            texts = [self._text(prompts[place]) for place in uncertain]
            for place, ids in zip(uncertain, self.tokenizer(texts, verbose=False).input_ids, strict=True):
                excess[place] = max(0, len(ids) - limit)
        return excess

    def _text(self, prompt: str) -> str:
        read = prompt.lower().strip() if self.lowers else prompt
        return self.template.replace("{prompt}", plain(read, self.tokenizer))

    def _surely_fits(self, prompt: str, limit: int) -> bool:
        """No tokenizer makes more tokens of ASCII than it has characters, and counting is slow."""
        return prompt.isascii() and len(prompt) + self._around <= limit

    @cached_property
    def _around(self) -> int:
        """At most so many tokens come on top of the prompt's own: the template's, special ones, a leading space."""
        return len(self.tokenizer(self._text(""), verbose=False).input_ids) + 2


def stated_limit(tokenizer: Tokenizer) -> int | None:
    """The length that a tokenizer's files name, in tokens; ``None`` where they name none."""
    length = tokenizer.model_max_length
    return length if length < _NO_LIMIT else None


def tokens_cut(limits: Sequence[TextLimit], prompts: Sequence[str]) -> list[int]:
    """How many tokens at the end of each prompt no reader has read.

    Where several read one prompt, the one that cuts the least counts: T5 reads on where CLIP stops.
    """
    if not limits:
        return [0] * len(prompts)
    by_reader = [limit.excess(prompts) for limit in limits]
    return [min(excess) for excess in zip(*by_reader, strict=True)]
