"""The words that the built-in models know, and the tokenizers made of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import CLIPTokenizer, PreTrainedTokenizerFast

from noisesmith.pipeline.embedded.grammar import ANIMALS, COLOURS, JOINS, THINGS

TEXT_LENGTH = 16  # tokens of a caption, with the first and the last
SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")
SCENE_WORDS = ("a", "an", *ANIMALS, *THINGS, *COLOURS, *JOINS)
CHAT_WORDS = (
    "Yes", "No", "yes", "no", "USER", "ASSISTANT", "SYSTEM", ":", "Does", "What", "does", "this", "figure", "show", '"',
    "'", "?", ".", ",", "Please", "answer", "or", "image", "picture", "Is", "there", "in", "the", "Question", "Answer",
)  # fmt: skip


def text_tokenizer() -> CLIPTokenizer:
    """The diffusion model's tokenizer: words of the grammar between ``<s>`` and ``</s>``, at most 16.

    It is CLIP's, since training scripts for Stable Diffusion read it with that class. Each word of the grammar is one
    token; other words become the pieces that they have in common with these, or ``<unk>``.
    """
    vocabulary, merges = byte_pairs(SCENE_WORDS)
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=TEXT_LENGTH,
        clean_up_tokenization_spaces=False,
        padding_side="right",
    )


def byte_pairs(words: Sequence[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The vocabulary and merges of a byte-pair encoding that makes each of ``words`` one token.

    The ids are those of the special tokens, then of the words, then of the pieces that words are merged from.
    """
    vocabulary = {token: number for number, token in enumerate((*SPECIALS, *(f"{word}</w>" for word in words)))}
    merges: list[tuple[str, str]] = []
    for word in words:
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        for piece in pieces:
            vocabulary.setdefault(piece, len(vocabulary))
        # A merge comes after those of the words before, so it changes nothing about these.
        for merge in merges:
            pieces = _merged(pieces, merge)
        while len(pieces) > 1:
            merge = (pieces[0], pieces[1])
            merges.append(merge)
            vocabulary.setdefault("".join(merge), len(vocabulary))
            pieces = _merged(pieces, merge)
    return vocabulary, merges


def _merged(pieces: Sequence[str], merge: tuple[str, str]) -> list[str]:
    """The pieces of a word with every neighbouring pair that is ``merge`` made one."""
    joined: list[str] = []
    for piece in pieces:
        if joined and (joined[-1], piece) == merge:
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


def token_ids(texts: list[str]) -> Tensor:
    """The diffusion model's token ids of N texts [N, 16]."""
    ids: Tensor = text_tokenizer()(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return ids


def chat_tokenizer() -> PreTrainedTokenizerFast:
    """The scorer's tokenizer: words of grammar and question after ``<s>``; case matters ("Yes" is a token)."""
    vocabulary = {word: index for index, word in enumerate((*SPECIALS, *CHAT_WORDS, *SCENE_WORDS))}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
        model_max_length=512,
        clean_up_tokenization_spaces=False,
        padding_side="right",
    )


def write_byte_pairs(folder: Path) -> None:
    """Write the tokenizer in the two files that versions of transformers before 5 read."""
    vocabulary, merges = byte_pairs(SCENE_WORDS)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    lines = [" ".join(merge) for merge in merges]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *lines]) + "\n")
