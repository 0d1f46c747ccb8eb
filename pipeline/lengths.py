"""How much of a run's prompts its models read: what is cut is said before the run, or refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.errors import UserError, reason
from noisesmith.pipeline.generators import FoundGenerator, Generator, read_text_limits
from noisesmith.pipeline.models.loading import is_models_fault
from noisesmith.pipeline.models.runtime import without_panic_messages
from noisesmith.pipeline.prompts import Corpus
from noisesmith.pipeline.records import Row
from noisesmith.pipeline.scorers import FoundScorer
from noisesmith.pipeline.text.control_tokens import plain
from noisesmith.pipeline.text.limits import TextLimit, tokens_cut
from noisesmith.pipeline.text.questions import split
from noisesmith.pipeline.text.subjects import token_indices
from noisesmith.pipeline.text.weighting import find_weighting

LISTED = 20_000  # prompts that a plan counts: a tokenizer takes a second for some thousand long ones
_BATCH = 1000


@dataclass(frozen=True)
class Reading:
    """How many prompts are longer than what one part of a model reads, and by how many tokens the longest is.

    Attributes:
        prompts: those that were counted; ``all_counted`` tells whether they are all.
    """

    limit: TextLimit
    prompts: int
    all_counted: bool
    longer: int
    longest: int

    def __str__(self) -> str:
        limit = self.limit
        if limit.tokens is None:
            return f"{limit.reader} states no limit"
        reads = f"{limit.reader} reads {limit.tokens} tokens"
        counted = f"{self.prompts:,}" if self.all_counted else f"the first {self.prompts:,}"
        if not self.longer:
            return (
                f"{reads}: no prompt is longer" if self.all_counted else f"{reads}: none of {counted} prompts is longer"
            )
        fate = "truncated" if limit.truncates else "beyond what the model was made for"
        return f"{reads}: {self.longer:,} of {counted} prompts {fate}, by up to {self.longest} tokens"


def check_lengths(config: RunConfig, generator: FoundGenerator, corpus: Corpus) -> None:
    """Refuse prompts that the text encoders would cut where the config says so, and listed subjects in what is cut.

    Raises:
        UserError: names the field and the first row.
    """
    refuses = config.generators.max_prompt_tokens == "refuse"
    lists_subjects = config.optimizer.reads_attention and any(section.subjects for section in config.corpus)
    if not (refuses or lists_subjects):
        return
    limits = read_text_limits(generator)
    if refuses:
        _refuse(tokens_cut(limits, [config.generators.negative_prompt]), "generators.negative_prompt:")
    for rows in _batches(corpus.rows()):
        cut = tokens_cut(limits, [row.prompt for row in rows])
        if refuses:
            for row, tokens in zip(rows, cut, strict=True):
                _refuse([tokens], f"row {row.index} of the corpus ({row.prompt[:40]!r}):")
        if lists_subjects:
            _check_subjects([row for row, tokens in zip(rows, cut, strict=True) if tokens], limits[0])


def refuse_long(rows: Sequence[Row], generator: Generator) -> None:
    """Refuse prompts that a loaded generator's text encoders would cut, where its config says so.

    Raises:
        UserError: names the first of them.
    """
    if generator.config.max_prompt_tokens == "refuse":
        for row, tokens in zip(rows, generator.tokens_cut([row.prompt for row in rows]), strict=True):
            _refuse([tokens], f"prompts: number {row.index}:")


def list_lengths(
    config: RunConfig, generator: FoundGenerator, scorers: Mapping[str, FoundScorer], corpus: Corpus
) -> dict[str, list[str]]:
    """What each model reads of the prompts, in sentences, by the model's field.

    Of a long corpus, the first :data:`LISTED` prompts are counted. What cannot be found out is said, and is no error.
    """
    models: dict[str, FoundGenerator | FoundScorer] = {"generators.model": generator, **scorers}
    lines: dict[str, list[str]] = {}
    for field, found in models.items():
        try:
            with without_panic_messages():
                lines[field] = _sentences(found, config, corpus)
        except BaseException as error:  # a Rust panic is no Exception
            if not (isinstance(error, UserError) or is_models_fault(error)):
                raise
            lines[field] = [f"unknown ({reason(error)})"]
    return lines


def describe_weighting(corpus: Corpus) -> str | None:
    """How many prompts have weights in the syntax of web UIs, which stay plain text; ``None`` where none has.

    Of a long corpus, the first :data:`LISTED` prompts are counted.
    """
    prompts = 0
    weighted = []
    for row in islice(corpus.rows(), LISTED):
        prompts += 1
        found = find_weighting(row.prompt)
        if found is not None:
            weighted.append(found)
    if not weighted:
        return None
    among = f"{prompts:,}" if prompts == corpus.size else f"the first {prompts:,}"
    return f"{len(weighted):,} of {among} prompts have weights such as {weighted[0]!r}, which is read as plain text"


def describe_questions(config: RunConfig, corpus: Corpus) -> str | None:
    """How many questions about the parts of a prompt the scorers are asked; ``None`` where none asks any.

    Of a long corpus, the first :data:`LISTED` prompts are counted.
    """
    asking = [member for member in config.panel if member.asks == "questions"]
    if not asking:
        return None
    prompts = 0
    questions = 0
    most = 0
    whole = 0
    for row in islice(corpus.rows(), LISTED):
        found = row.questions or split(row.prompt, asking[0].question)
        prompts += 1
        questions += max(1, len(found))
        most = max(most, len(found), 1)
        whole += not found
    among = f"{prompts:,}" if prompts == corpus.size else f"the first {prompts:,}"
    return (
        f"{questions / prompts:.2g} per prompt, at most {most}, each one pass of the scorer; "
        f"{whole:,} of {among} prompts are asked as a whole"
    )


def _sentences(found: FoundGenerator | FoundScorer, config: RunConfig, corpus: Corpus) -> list[str]:
    negative = 0
    if isinstance(found, FoundGenerator):
        limits = read_text_limits(found)
        (negative,) = tokens_cut(limits, [config.generators.negative_prompt])
    else:
        limits = found.family.text_limits(found)
    sentences = [str(reading) for reading in _count(limits, corpus)]
    if negative:
        sentences.append(f"the negative prompt is truncated by {negative} tokens")
    return sentences or ["the model's own limit, unknown here"]


def _count(limits: Sequence[TextLimit], corpus: Corpus) -> list[Reading]:
    counted = 0
    longer = [0] * len(limits)
    longest = [0] * len(limits)
    for rows in _batches(islice(corpus.rows(), LISTED)):
        counted += len(rows)
        prompts = [row.prompt for row in rows]
        for place, limit in enumerate(limits):
            excess = limit.excess(prompts)
            longer[place] += sum(1 for tokens in excess if tokens)
            longest[place] = max(longest[place], *excess)
    readings = []
    for place, limit in enumerate(limits):
        readings.append(Reading(limit, counted, counted == corpus.size, longer[place], longest[place]))
    return readings


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    remaining = iter(rows)
    while batch := list(islice(remaining, _BATCH)):
        yield batch


def _refuse(cut: Sequence[int], what: str) -> None:
    """Refuse what is cut: ``what`` names it."""
    if any(cut):
        raise UserError(
            f"{what} no text encoder reads its last {cut[0]} tokens, and generators.max_prompt_tokens is refuse; "
            "shorten it, or set generators.max_prompt_tokens: cut"
        )


def _check_subjects(rows: Sequence[Row], limit: TextLimit) -> None:
    """Refuse subjects that a corpus lists and the text encoder does not read.

    Raises:
        UserError: names the row.
    """
    for row in rows:
        prompt = plain(row.prompt, limit.tokenizer)
        try:
            token_indices(limit.tokenizer, prompt, [plain(subject, limit.tokenizer) for subject in row.subjects])
        except UserError as error:
            raise UserError(f"row {row.index} of the corpus: {error}") from error
