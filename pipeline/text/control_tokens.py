"""Keeps prompts plain text: breaks up whatever a model's tokenizer would take for a control token."""

from __future__ import annotations

from noisesmith.pipeline.models.libraries import Tokenizer


def plain(text: str, *tokenizers: Tokenizer) -> str:
    """The text with a space after the first character of every special token: ``<image>`` becomes ``< image>``.

    A prompt is data. In it ``<image>`` must not ask for a second image, nor ``</s>`` or ``<|im_end|>`` end the turn.

    Args:
        tokenizers: those of ``transformers`` that will read the text.
    """
    for tokenizer in tokenizers:
        for token in tokenizer.added_tokens_decoder.values():
            if token.special and len(token.content) > 1:
                text = text.replace(token.content, f"{token.content[0]} {token.content[1:]}")
    return text
