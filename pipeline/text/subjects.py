"""The things a prompt asks for, and where the text encoder's tokens name them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from noisesmith.pipeline.embedded import grammar
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.models.libraries import Tokenizer

_WORD = re.compile(r"([^\W\d_]+(?:[-'’][^\W\d_]+)*)(?!\w)|\w+|\S")  # the group is empty where it is no word
_DETERMINERS = """a an the this that these those my your his her its our their some any each every another other
    several many few both no one two three four five six seven eight nine ten dozen it he she they him them who which
    what"""
_PREPOSITIONS = """and or but nor while with without of in on under above below beneath underneath over at by near
    beside behind between among around against along across through inside outside within into onto upon from to for
    as like off up down out next front top bottom left right middle center centre foreground background towards"""
_VERBS = """is are was were be has have had do does sit sits sat stand stands stood lie lies lay eat eats hold holds
    held wear wears worn ride rides run runs walk walks look looks play plays flies jump jumps sleep sleeps dressed
    parked seated made covered filled surrounded placed painted"""
_VIEWS = """photo photograph picture image painting drawing illustration portrait render rendering sketch view shot
    close-up closeup group pair couple bunch set pile stack lot number"""
_ING_NOUNS = """painting drawing building ceiling clothing string wing king ring swing spring evening morning wedding
    railing pudding earring awning crossing lightning dumpling duckling icing frosting rendering"""
BREAKS = frozenset(f"{_DETERMINERS} {_PREPOSITIONS} {_VERBS}".split())


def find_subjects(prompt: str) -> list[str]:
    """The nouns a prompt asks for, as it writes them, in order, each once.

    A prompt of the embedded world is parsed, and its nouns are exact. Any other is cut at punctuation, digits,
    determiners, prepositions, connectives, common verbs and ``-ing`` words after a noun; the last word of every piece
    is its head, and heads that only name a view or a quantity (``a photo of …``, ``a group of …``) are left out.
    That is a heuristic for English captions without a tagger: it takes unknown verbs and style words (``highly
    detailed``) for nouns, so a corpus whose prompts hold them should list its subjects in a column.
    """
    scene = grammar.parse(prompt)
    heads = [phrase.noun for phrase in scene.phrases] if scene else _heads(prompt)
    found: dict[str, str] = {}  # without case → as it is written first
    for head in heads:
        found.setdefault(head.casefold(), head)
    return list(found.values())


def find_read_subjects(tokenizer: Tokenizer, prompt: str) -> list[str]:
    """The nouns of :func:`find_subjects` that the text encoder reads.

    Nouns beyond its limit, and those whose tokens cannot be told, are left out: nobody has listed them. The result may
    be empty.
    """
    read = []
    for subject in find_subjects(prompt):
        try:
            (tokens,) = token_indices(tokenizer, prompt, [subject])
        except UserError:
            continue
        if tokens:
            read.append(subject)
    return read


def token_indices(tokenizer: Tokenizer, prompt: str, subjects: Sequence[str]) -> list[list[int]]:
    """Positions of each subject's tokens in the padded encoding of ``prompt``, start token included.

    These are positions on the key axis of cross-attention. A subject of several words or word pieces has several. Case
    does not matter; words must match whole. A subject listed twice means its first and its second occurrence.

    Args:
        tokenizer: a ``transformers`` tokenizer, fast or slow, that splits text at the edges of words as CLIP's does.

    Raises:
        UserError: a subject does not occur in the prompt, or lies beyond what the text encoder reads of it.
    """
    start, last = _span(tokenizer, prompt)
    indices = []
    for subject, span in zip(subjects, occurrences(prompt, subjects), strict=True):
        first, stop = (start + len(_ids(tokenizer, prompt[:end].rstrip())) for end in span)
        if stop > last:
            raise UserError(
                f"corpus.subjects: {subject!r} lies beyond the {tokenizer.model_max_length} tokens that the text "
                f"encoder reads of the prompt {_short(prompt)}; shorten the prompt or leave this subject out"
            )
        indices.append(list(range(first, stop)))
    return indices


def occurrences(prompt: str, subjects: Sequence[str]) -> list[tuple[int, int]]:
    """Where each subject begins and ends in a prompt, in characters; see :func:`token_indices`.

    Raises:
        UserError: a subject does not occur in the prompt.
    """
    folded, origins = _fold(prompt)
    found: dict[str, int] = {}  # subject → where the search for its next occurrence begins
    spans = []
    for subject in subjects:
        word = subject.casefold().strip()
        pattern = r"\s+".join(map(re.escape, word.split()))
        match = re.compile(rf"(?<!\w){pattern}(?!\w)").search(folded, found.get(word, 0))
        if not word or match is None:
            raise UserError(
                f"corpus.subjects: {subject!r} does not occur {'again ' if word in found else ''}in the prompt "
                f"{_short(prompt)}; list every subject as the prompt writes it"
            )
        found[word] = match.end()
        spans.append((origins[match.start()], origins[match.end() - 1] + 1))
    return spans


def _fold(text: str) -> tuple[str, list[int]]:
    """A text without case, and for each of its characters the place in ``text`` that it comes from.

    Some letters become longer: İ is folded to two characters, ß to ss.
    """
    folded = []
    origins: list[int] = []
    for place, character in enumerate(text):
        without_case = character.casefold()
        folded.append(without_case)
        origins += [place] * len(without_case)
    return "".join(folded), origins


def text_stop(tokenizer: Tokenizer, prompt: str) -> int:
    """One past the last position that the softmax over text tokens covers in the padded encoding of ``prompt``.

    As in Attend-and-Excite's own settings: everything but the last position where the end token also pads (Stable
    Diffusion 1.x), and the prompt's own tokens alone where padding is another token (Stable Diffusion 2.x).
    """
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        return int(tokenizer.model_max_length) - 1
    return _span(tokenizer, prompt)[1]


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)


def _span(tokenizer: Tokenizer, prompt: str) -> tuple[int, int]:
    """Where the prompt's own tokens start in its truncated encoding, and one past where they end."""
    bare, whole = _ids(tokenizer, prompt), list(tokenizer(prompt, verbose=False).input_ids)
    start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    after = len(whole) - start - len(bare)
    return start, min(start + len(bare), tokenizer.model_max_length - after)


def _heads(prompt: str) -> Iterator[str]:
    phrase: list[str] = []
    for word in [*_WORD.findall(prompt), ""]:
        if word and word.lower() not in BREAKS and not (phrase and is_verb(word)):
            phrase.append(word)
            continue
        if phrase and not is_verb(phrase[-1]) and not (word.lower() == "of" and phrase[-1].lower() in _VIEWS.split()):
            yield phrase[-1]
        phrase = []


def is_verb(word: str) -> bool:
    """Whether a word looks like a present participle, such as "wearing"."""
    lower = word.lower()
    return lower.endswith("ing") and len(lower) > 4 and lower not in _ING_NOUNS.split()


def _short(prompt: str) -> str:
    return repr(prompt if len(prompt) <= 80 else f"{prompt[:77]}...")
