"""Training the vision-language model.

Yes/no answers alone leave it at chance for thousands of steps. What makes it learn:

- many questions a picture, packed into one sequence behind a shared image prefix (block attention mask, positions
  counted anew for each), so that eight questions cost about twice one;
- dense losses on the projected patch tokens: each is pulled towards the language model's own word embeddings of the
  noun and the colour lying there, and discarded linear heads read the other object and its direction from it;
- verdicts at the first noun and the last word of each prompt, by one more discarded head;
- captioning: in true questions the words of the prompt themselves are predicted from the picture;
- a curriculum: the vision tower alone first, then one object, pairs, relations.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from noisesmith.pipeline.embedded.grammar import COLOURS, NOUNS, ScenePrompt
from noisesmith.pipeline.embedded.models import QUESTION, chat_tokenizer, new_vlm
from noisesmith.pipeline.embedded.scenes import (
    LAYOUT_SHARES,
    LAYOUTS,
    NEGATIVES,
    SIZE,
    Item,
    Scene,
    half_extent,
    possible,
    question,
    sample,
    truth,
)
from noisesmith.pipeline.embedded.training.data import pictures, tiled, wear
from noisesmith.pipeline.embedded.training.loop import Plan, fit
from noisesmith.pipeline.embedded.vision import PATCH, whiten_patches

PLAN = Plan("vlm", steps=3200, batch=24, lr=1.2e-3, warmup=100, ema=0.995)
GRID = SIZE // PATCH
QUESTIONS = 8
DIRECTIONS = ("none", "left", "right", "on it", "far above", "below it", "far below", "worn")
SPOKEN = ("a", "and", "on", "above", "under", "below", "with")  # the word each direction is pulled towards
JOIN_OF = torch.tensor([0, 1, 1, 2, 3, 4, 5, 6])


def normalised(images: Tensor) -> Tensor:
    """CLIP's mean and deviation applied to float [B, 3, 64, 64] in 0..1."""
    mean, std = (torch.tensor(v, device=images.device)[:, None, None] for v in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    return (images - mean) / std


class Student(nn.Module):
    """The model with the heads that exist only while training."""

    def __init__(self) -> None:
        super().__init__()
        self.vlm = new_vlm()
        rng = random.Random(0)
        whiten_patches(self.vlm.model.vision_tower, normalised(pictures([sample(rng) for _ in range(1000)])))
        width = self.vlm.config.text_config.hidden_size
        self.heads = nn.ModuleDict(
            {
                "noun": nn.Linear(width, len(NOUNS) + 1),
                "colour": nn.Linear(width, len(COLOURS)),
                "other_noun": nn.Linear(width, len(NOUNS)),
                "other_colour": nn.Linear(width, len(COLOURS)),
                "direction": nn.Linear(width, len(DIRECTIONS)),
            }
        )
        self.verdict = nn.Linear(width, 2)

    def patches(self, images: Tensor) -> Tensor:
        """Projected patch tokens [B, 64, width] of float [B, 3, 64, 64] in 0..1."""
        hidden = self.vlm.model.vision_tower(normalised(images), output_hidden_states=True).hidden_states[-1]
        return self.vlm.model.multi_modal_projector(hidden[:, 1:])


def _direction(item: Item, other: Item, layout: str) -> int:
    if layout == "with":
        return DIRECTIONS.index("worn")
    if layout == "and":
        return DIRECTIONS.index("right" if other.x > item.x else "left")
    upper = other.y < item.y
    name = ("on it" if upper else "below it") if layout == "on" else ("far above" if upper else "far below")
    return DIRECTIONS.index(name)


def dense_labels(scenes: Sequence[Scene]) -> dict[str, Tensor]:
    """What lies on each patch: int64 [B, 64] a head, −100 where there is nothing to say."""
    names = ("noun", "colour", "other_noun", "other_colour", "direction")
    labels = {name: torch.full((len(scenes), GRID, GRID), -100) for name in names}
    labels["noun"].fill_(len(NOUNS))
    centres = (torch.arange(GRID) + 0.5) * PATCH
    for b, scene in enumerate(scenes):
        for index in reversed(range(len(scene.items))):
            item = scene.items[index]

            half_w, half_h = half_extent(item)
            dx, dy = (centres - item.x).abs(), (centres - item.y).abs()
            inside = (dy[:, None] <= max(half_h, 4.1)) & (dx[None] <= max(half_w, 4.1))
            edge = ~inside & (dy[:, None] <= half_h + 3.9) & (dx[None] <= half_w + 3.9)
            labels["noun"][b][edge & (labels["noun"][b] == len(NOUNS))] = -100
            labels["noun"][b][inside] = NOUNS.index(item.noun)
            labels["colour"][b][inside] = COLOURS.index(item.colour) if item.colour else -100
            if len(scene.items) == 2:
                other = scene.items[1 - index]
                labels["other_noun"][b][inside] = NOUNS.index(other.noun)
                labels["other_colour"][b][inside] = COLOURS.index(other.colour) if other.colour else -100
                labels["direction"][b][inside] = _direction(item, other, scene.layout)
            elif len(scene.items) == 1:
                labels["direction"][b][inside] = 0
    return {name: value.flatten(1) for name, value in labels.items()}


def dense_loss(
    student: Student, tokens: Tensor, scenes: Sequence[Scene], words: Words
) -> tuple[Tensor, dict[str, float]]:
    """Word-embedding and linear-head losses of patch tokens [B, 64, width]."""
    labels = dense_labels(scenes)
    table = F.normalize(student.vlm.get_input_embeddings().weight, dim=-1)
    direction = F.normalize(tokens, dim=-1)
    loss = tokens.new_zeros(())
    metrics = {}
    labels["join"] = torch.where(labels["direction"] < 0, -100, JOIN_OF[labels["direction"].clamp(min=0)])
    for name, ids, weight in (("noun", words.nouns, 1.5), ("colour", words.colours, 0.7), ("join", words.joins, 1.0)):
        logits = 12 * direction @ table[ids].T
        loss = loss + weight * F.cross_entropy(logits.transpose(1, 2), labels[name])
    for name, head in student.heads.items():
        logits = head(tokens)
        one = F.cross_entropy(logits.transpose(1, 2), labels[name])
        loss = loss + (0.5 if name in ("noun", "colour") else 0.3) * one
        with torch.no_grad():
            known = (labels[name] >= 0) & (labels[name] < len(NOUNS))
            metrics[name] = (logits.argmax(-1) == labels[name])[known].float().mean().item()
    return loss, metrics


@dataclass(frozen=True)
class Words:
    """Token ids the training needs: what comes before the image, between it and the prompt, and after the prompt; the
    rows of the embedding that name nouns and colours; the vocabulary."""

    before: list[int]
    opening: list[int]
    closing: list[int]
    nouns: list[int]
    colours: list[int]
    joins: list[int]
    yes: int
    no: int
    vocabulary: dict[str, int]


def words() -> Words:
    """Look the ids up in the chat tokenizer; "figure" stands for background."""
    t = chat_tokenizer()
    ids = t.convert_tokens_to_ids
    opening, closing = QUESTION.split("{}")

    def plain(text: str) -> list[int]:
        return t(text, add_special_tokens=False)["input_ids"]

    return Words(
        before=t("USER:")["input_ids"],
        opening=plain(opening),
        closing=plain(closing + " ASSISTANT:"),
        nouns=ids([*NOUNS, "figure"]),
        colours=ids(list(COLOURS)),
        joins=ids(list(SPOKEN)),
        yes=ids("Yes"),
        no=ids("No"),
        vocabulary=t.get_vocab(),
    )


@dataclass(frozen=True)
class Packed:
    """Segments of B pictures, padded: token ids [B, L], segment number [B, L] (−1: padding), position in the segment
    [B, L], and the target of the next token [B, L] (−100: none)."""

    ids: Tensor
    segment: Tensor
    position: Tensor
    target: Tensor


def pack(rows: Sequence[Sequence[tuple[list[int], list[int]]]]) -> Packed:
    """Pack each row's segments, given as (ids, targets) of equal length."""
    length = max(sum(len(ids) for ids, _ in row) for row in rows)
    ids, segment, position, target = (torch.full((len(rows), length), v) for v in (0, -1, 0, -100))
    for b, row in enumerate(rows):
        at = 0
        for number, (tokens, wanted) in enumerate(row):
            span = slice(at, at + len(tokens))
            ids[b, span], target[b, span] = torch.tensor(tokens), torch.tensor(wanted)
            segment[b, span], position[b, span] = number, torch.arange(len(tokens))
            at += len(tokens)
    return Packed(ids, segment, position, target)


def packed_hidden(vlm: LlavaForConditionalGeneration, tokens: Tensor, w: Words, packed: Packed) -> Tensor:
    """Last hidden states [B, L, width] of packed segments, each seeing the shared prefix (the image and the question's
    opening words) and its own past only."""
    batch, length = packed.ids.shape
    embed = vlm.get_input_embeddings()
    before, opening = (embed(torch.tensor(ids)).expand(batch, -1, -1) for ids in (w.before, w.opening))
    inputs = torch.cat([before, tokens, opening, embed(packed.ids)], 1)
    start = inputs.shape[1] - length
    positions = torch.cat([torch.arange(start).expand(batch, -1), packed.position + start], 1)
    segment = torch.cat([torch.full((batch, start), -2), packed.segment], 1)
    causal = torch.ones(start + length, start + length, dtype=torch.bool).tril()
    allowed = causal & ((segment[:, :, None] == segment[:, None]) | (segment[:, None] == -2))
    mask = torch.zeros(batch, 1, start + length, start + length)
    mask.masked_fill_(~allowed[:, None], torch.finfo(torch.float32).min)
    hidden = vlm.model.language_model(
        inputs_embeds=inputs, attention_mask=mask, position_ids=positions, use_cache=False
    ).last_hidden_state
    return hidden[:, start:]


def packed_logits(vlm: LlavaForConditionalGeneration, tokens: Tensor, w: Words, packed: Packed) -> Tensor:
    """Logits [B, L, vocabulary] of packed segments (:func:`packed_hidden`)."""
    return vlm.lm_head(packed_hidden(vlm, tokens, w, packed))


def segments(scene: Scene, rng: random.Random, w: Words, count: int) -> list[tuple[list[int], list[int]]]:
    """:func:`checked_segments` without the verdicts."""
    return [(ids, targets) for ids, targets, _ in checked_segments(scene, rng, w, count)]


def checked_segments(
    scene: Scene, rng: random.Random, w: Words, count: int
) -> list[tuple[list[int], list[int], list[int]]]:
    """``count`` questions as (ids, targets, verdicts), half of them false with every kind of negative in turn; in true
    ones the prompt's own words are targets too. A verdict says at the first noun whether that object is there, and at
    the last word whether the prompt is true: it shows where a false prompt goes wrong."""
    out = []
    kinds = [k for k in NEGATIVES if possible(scene, k)]
    first = rng.randrange(len(kinds))
    for number in range(count):
        answer = number % 2 == 0
        q = question(scene, rng, answer, None if answer else kinds[(first + number // 2) % len(kinds)])
        prompt = [w.vocabulary[word] for word in str(q.prompt).split()]
        told = prompt[1:] if answer else [-100] * (len(prompt) - 1)
        silent = [-100] * len(w.closing)
        verdicts = [-100] * (len(prompt) + len(w.closing))
        verdicts[1 + (q.prompt.first.colour is not None)] = int(truth(scene.items, ScenePrompt(q.prompt.first)))
        verdicts[len(prompt) - 1] = int(answer)
        out.append((prompt + w.closing, [*told, *silent, w.yes if answer else w.no], verdicts))
    return out


def shares(progress: float) -> list[float]:
    """Layout weights of the curriculum at ``progress`` in 0..1 of training."""
    single, pair, worn, on, above = (float(s) for s in LAYOUT_SHARES)
    open_pairs = min(1.0, max(0.0, (progress - 0.03) / 0.05))
    open_relations = min(1.0, max(0.0, (progress - 0.08) / 0.07))
    early = 60 * (1 - open_pairs)
    return [
        single + early,
        pair * open_pairs + 5,
        worn * open_relations + 2,
        on * open_relations,
        above * open_relations,
    ]


def train(
    seed: int,
    checkpoints: Path,
    vae: AutoencoderKL | None,
    plan: Plan = PLAN,
    log: Callable[[str], None] = print,
    warm: float = 0.23,
) -> LlavaForConditionalGeneration:
    """Train from scratch (or resume); the first ``warm`` of the steps train the vision tower alone, on more scenes."""
    torch.manual_seed(seed)
    student = Student()
    w = words()

    def loss_fn(step: int, rng: random.Random) -> tuple[Tensor, dict[str, float]]:
        progress = step / plan.steps
        alone = progress < warm
        if alone:
            scenes = [tiled(rng) if rng.random() < 0.75 else sample(rng) for _ in range(2 * plan.batch)]
            return dense_loss(student, student.patches(wear(pictures(scenes), rng, None)), scenes, w)
        weights = shares((progress - warm) / (1 - warm))
        scenes = [sample(rng, rng.choices(LAYOUTS, weights)[0]) for _ in range(plan.batch)]
        tokens = student.patches(wear(pictures(scenes), rng, vae, 0.25))
        dense, metrics = dense_loss(student, tokens, scenes, w)
        rows = [checked_segments(s, rng, w, QUESTIONS) for s in scenes]
        packed = pack([[(ids, targets) for ids, targets, _ in row] for row in rows])
        verdicts = pack([[(ids, labels) for ids, _, labels in row] for row in rows]).target
        hidden = packed_hidden(student.vlm, tokens, w, packed)
        logits = student.vlm.lm_head(hidden)
        known = verdicts >= 0
        judged = F.cross_entropy(student.verdict(hidden[known]), verdicts[known])
        asked = (packed.target == w.yes) | (packed.target == w.no)
        told = (packed.target >= 0) & ~asked
        answers = F.cross_entropy(logits[asked], packed.target[asked])
        captions = F.cross_entropy(logits[told], packed.target[told])
        right = ((logits[..., w.yes] > logits[..., w.no]) == (packed.target == w.yes))[asked].float().mean()
        metrics |= {"answers": answers.item(), "accuracy": right.item(), "captions": captions.item()}
        metrics["verdicts"] = judged.item()
        return 2 * answers + 2 * judged + 0.5 * captions + 0.5 * dense, metrics

    module = fit(plan, student, loss_fn, seed, checkpoints, log)
    assert isinstance(module, Student)
    return module.vlm
