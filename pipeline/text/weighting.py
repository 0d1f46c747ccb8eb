"""The prompt syntax of web UIs, which means nothing to the models here."""

from __future__ import annotations

import re

# (a cat:1.3), ((a cat)), [[a cat]] and <lora:name:0.8>; single brackets are ordinary punctuation.
_WEIGHTED = re.compile(r"\([^()]+:\d+(\.\d+)?\)|\(\([^()]+\)\)|\[\[[^\[\]]+\]\]|<lora:[^<>]+>")


def find_weighting(prompt: str) -> str | None:
    """The first part of a prompt that a web UI would read as a weight or a LoRA; ``None`` where there is none."""
    found = _WEIGHTED.search(prompt)
    return None if found is None else found.group()
