"""Many questions per picture in one sequence behind a shared image, so that eight questions cost about twice one.

Each question is a segment that sees the shared prefix (the image and the question's opening words) and its own past,
and no other segment; its positions continue those of the prefix.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, Qwen2VLForConditionalGeneration

from noisesmith.pipeline.embedded.geometry import truth
from noisesmith.pipeline.embedded.grammar import COLOURS, NOUNS, ScenePrompt
from noisesmith.pipeline.embedded.training.architectures import QUESTION
from noisesmith.pipeline.embedded.training.questions import NEGATIVES, missed, possible, question
from noisesmith.pipeline.embedded.training.qwen import qwen_tokenizer, rotary_positions
from noisesmith.pipeline.embedded.training.scenes import Scene
from noisesmith.pipeline.embedded.training.vocabulary import chat_tokenizer

NO_TARGET = -100  # what torch's cross-entropy ignores
PADDING = -1  # segment number of padding
UNKNOWN = 3  # the chat tokenizers' <unk>
PREFIX = -2  # segment number of the shared prefix
SPOKEN = ("a", "and", "on", "above", "under", "below", "with")  # the word that each direction is pulled towards

Segment = tuple[list[int], list[int]]  # token ids, and the target after each of them


@dataclass(frozen=True)
class Words:
    """Token ids that the training needs.

    ``before`` comes before the image, ``opening`` between it and the prompt, ``closing`` after the prompt. ``nouns``,
    ``colours`` and ``joins`` are the rows of the embedding that name these.
    """

    before: list[int]
    opening: list[int]
    closing: list[int]
    nouns: list[int]
    colours: list[int]
    joins: list[int]
    yes: int
    no: int
    vocabulary: dict[str, int]


def about(prompt: ScenePrompt, words: Words, verdict: int) -> Segment:
    """The question whether a picture shows a prompt, with a verdict, "Yes" or "No", as its only target."""
    ids = [words.vocabulary.get(word, UNKNOWN) for word in str(prompt).split()] + words.closing
    return ids, [NO_TARGET] * (len(ids) - 1) + [verdict]


def words(kind: str = "llava") -> Words:
    """Read the ids from a scorer's tokenizer; the word "figure" stands for the background.

    Args:
        kind: ``llava`` or ``qwen``, whose chats have different marks around the image and the question.
    """
    opening, closing = QUESTION.split("{}")
    before = "USER:"
    answer = " ASSISTANT:"
    tokenizer = chat_tokenizer()
    if kind == "qwen":
        tokenizer = qwen_tokenizer()
        before = "<|im_start|>USER : <|vision_start|>"
        opening = "<|vision_end|>" + opening
        answer = "<|im_end|><|im_start|>ASSISTANT : "
    ids = tokenizer.convert_tokens_to_ids

    def plain(text: str) -> list[int]:
        tokens: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return tokens

    return Words(
        before=tokenizer(before)["input_ids"],
        opening=plain(opening),
        closing=plain(closing + answer),
        nouns=ids([*NOUNS, "figure"]),
        colours=ids(list(COLOURS)),
        joins=ids(list(SPOKEN)),
        yes=ids("Yes"),
        no=ids("No"),
        vocabulary=tokenizer.get_vocab(),
    )


@dataclass(frozen=True)
class Packed:
    """Segments of B pictures, padded to L tokens; each field is int64 [B, L].

    ``ids`` are the tokens, ``segment`` the number of each token's segment (−1: padding), ``position`` its position in
    the segment, and ``target`` the token to predict after it (−100: none).
    """

    ids: Tensor
    segment: Tensor
    position: Tensor
    target: Tensor


def pack(rows: Sequence[Sequence[Segment]]) -> Packed:
    """Pack the segments of each picture into one sequence."""
    length = 0
    for row in rows:
        length = max(length, sum(len(ids) for ids, _ in row))
    shape = (len(rows), length)
    packed = Packed(
        ids=torch.full(shape, 0),
        segment=torch.full(shape, PADDING),
        position=torch.full(shape, 0),
        target=torch.full(shape, NO_TARGET),
    )
    for picture, row in enumerate(rows):
        start = 0
        for number, (ids, targets) in enumerate(row):
            span = slice(start, start + len(ids))
            packed.ids[picture, span] = torch.tensor(ids)
            packed.segment[picture, span] = number
            packed.position[picture, span] = torch.arange(len(ids))
            packed.target[picture, span] = torch.tensor(targets)
            start = span.stop
    return packed


def packed_hidden(vlm: PreTrainedModel, tokens: Tensor, words: Words, packed: Packed) -> Tensor:
    """Last hidden states [B, L, width] of packed segments behind projected patch tokens [B, 64, width]."""
    batch, length = packed.ids.shape
    embed = vlm.get_input_embeddings()
    before = embed(torch.tensor(words.before)).expand(batch, -1, -1)
    opening = embed(torch.tensor(words.opening)).expand(batch, -1, -1)
    inputs = torch.cat([before, tokens, opening, embed(packed.ids)], 1)
    start = inputs.shape[1] - length
    if isinstance(vlm, Qwen2VLForConditionalGeneration):
        opened = len(words.opening)
        after = torch.cat([torch.arange(opened).expand(batch, -1), packed.position + opened], 1)
        positions = rotary_positions(len(words.before), tokens.shape[1], after)
    else:
        positions = torch.cat([torch.arange(start).expand(batch, -1), packed.position + start], 1)
    segment = torch.cat([torch.full((batch, start), PREFIX), packed.segment], 1)
    causal = torch.ones(start + length, start + length, dtype=torch.bool).tril()
    same_segment = segment[:, :, None] == segment[:, None]
    in_prefix = segment[:, None] == PREFIX
    allowed = causal & (same_segment | in_prefix)
    mask = torch.zeros(batch, 1, start + length, start + length)
    mask.masked_fill_(~allowed[:, None], torch.finfo(torch.float32).min)
    hidden: Tensor = vlm.model.language_model(
        inputs_embeds=inputs, attention_mask=mask, position_ids=positions, use_cache=False
    ).last_hidden_state
    return hidden[:, start:]


def packed_logits(vlm: PreTrainedModel, tokens: Tensor, words: Words, packed: Packed) -> Tensor:
    """Logits [B, L, vocabulary] of packed segments (see :func:`packed_hidden`)."""
    logits: Tensor = vlm.lm_head(packed_hidden(vlm, tokens, words, packed))
    return logits


@dataclass(frozen=True)
class Asked:
    """One question as a segment, with its verdicts.

    A verdict says at the first noun whether that object is there, and at the prompt's last word whether the prompt is
    true; −100 elsewhere. It shows the model where a false prompt goes wrong.
    """

    ids: list[int]
    targets: list[int]
    verdicts: list[int]

    @property
    def segment(self) -> Segment:
        return self.ids, self.targets


def ask(scene: Scene, rng: random.Random, words: Words, count: int, whole: Scene | None = None) -> list[Asked]:
    """``count`` questions about a scene, every second one false, with each kind of negative in turn.

    In true questions the words of the prompt itself are targets too: the model learns to caption.

    Args:
        whole: the scene before one of its objects was spoiled; half of the false questions ask for that object.
    """
    kinds = [kind for kind in NEGATIVES if possible(scene, kind)]
    first = rng.randrange(len(kinds))
    questions: list[Asked] = []
    for number in range(count):
        answer = number % 2 == 0
        kind = None if answer else kinds[(first + number // 2) % len(kinds)]
        asked = question(scene, rng, answer, kind)
        if not answer and whole is not None and rng.random() < 0.5:
            asked = missed(scene, whole, rng)
        prompt = [words.vocabulary[word] for word in str(asked.prompt).split()]
        spoken = prompt[1:] if answer else [NO_TARGET] * (len(prompt) - 1)
        targets = [*spoken, *[NO_TARGET] * len(words.closing), words.yes if answer else words.no]
        ids = prompt + words.closing
        verdicts = [NO_TARGET] * len(ids)
        first_noun = 1 if asked.prompt.first.colour is None else 2
        verdicts[first_noun] = int(truth(scene.items, ScenePrompt(asked.prompt.first)))
        verdicts[len(prompt) - 1] = int(answer)
        questions.append(Asked(ids, targets, verdicts))
    return questions


def segments(scene: Scene, rng: random.Random, words: Words, count: int, whole: Scene | None = None) -> list[Segment]:
    """The segments of :func:`ask`."""
    return [asked.segment for asked in ask(scene, rng, words, count, whole)]
