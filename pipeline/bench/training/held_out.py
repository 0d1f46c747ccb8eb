"""The prompts that are evaluated: the rest of the corpus's sources, without any prompt that is trained on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from noisesmith.pipeline.config import CorpusConfig, RunConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.prompts import open_corpus
from noisesmith.pipeline.records import Row, row_id

_SPARE = 20  # prompts of a grammar that are looked at per one that is wanted: short ones come again and again


def same_prompt(prompt: str) -> str:
    """A text that is equal for prompts that differ in case, white space or a full stop at the end only."""
    return " ".join(prompt.casefold().split()).rstrip(". ")


def held_out_rows(config: RunConfig, trained: Iterable[str], count: int) -> tuple[Row, ...]:
    """``count`` different prompts of the corpus's sources, in equal shares, none of which is trained on.

    Each source is read from where its trained part ends.

    Args:
        config: of the run that is trained on; each of its sources says how many rows the run takes.
        trained: all prompts of that run.

    Raises:
        UserError: a source has too few other prompts.
    """
    if count < len(config.corpus):
        raise UserError(f"--held-out: {count} is below the {len(config.corpus)} sources of the corpus; raise it")
    taken = {same_prompt(prompt) for prompt in trained}
    share, rest = divmod(count, len(config.corpus))
    found: list[Row] = []
    for position, section in enumerate(config.corpus):
        wanted = share + 1 if position < rest else share
        for row in _fresh(_after_training(config, section, wanted), taken, wanted, section):
            found.append(replace(row, index=len(found), id=row_id(len(found), row.prompt)))
    return tuple(found)


def _after_training(config: RunConfig, section: CorpusConfig, wanted: int) -> Iterator[Row]:
    """The rows of a source after those that the run takes."""
    if section.size is None:
        raise UserError(
            f"corpus: the run takes all rows of {section.source}, and prompts must be left to evaluate; set its size, "
            "or give --prompts"
        )
    size = section.size + _SPARE * wanted if section.source.startswith("embedded/") else None
    whole = config.model_copy(update={"corpus": (section.model_copy(update={"size": size}),)})
    return open_corpus(whole).rows(section.size)


def _fresh(rows: Iterable[Row], taken: set[str], wanted: int, section: CorpusConfig) -> Iterator[Row]:
    """The first ``wanted`` rows whose prompts are not taken; they are taken then."""
    left = wanted
    for row in rows:
        key = same_prompt(row.prompt)
        if key in taken:
            continue
        taken.add(key)
        yield row
        left -= 1
        if not left:
            return
    raise UserError(
        f"--held-out: {section.source} has only {wanted - left} different prompts after those that are trained on, and "
        f"{wanted} are wanted; lower it, or --prompts"
    )
