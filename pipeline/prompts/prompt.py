"""What a text must be to be a prompt."""

from __future__ import annotations

import json
import re

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # tab and newline are text
_SURROGATE = re.compile("[\ud800-\udfff]")
# Anything but white space, the blank of Braille, and the characters that Unicode's Default_Ignorable_Code_Point lists:
# zero-width characters, joiners, fillers, variation selectors, tags.
_VISIBLE = re.compile(
    r"[^\s\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164"
    r"\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def prompt_problem(prompt: object, limit: int, earlier: bool = False) -> str | None:
    """Return why a value cannot be a prompt, with the remedy, or ``None`` for a text of 1 to ``limit`` characters.

    Args:
        earlier: take a prompt without a visible character, as earlier versions did.
    """
    if prompt is None:
        return "has no prompt; write one or remove the row"
    if not isinstance(prompt, str):
        return f"the prompt is {json.dumps(prompt, default=str)[:40]}, but must be text"
    if not prompt.strip():
        return "the prompt is empty; write one or remove the row"
    if len(prompt) > limit:
        return f"the prompt has {len(prompt)} characters, above max_prompt_chars={limit}; shorten it or raise the limit"
    control = _CONTROL.search(prompt)
    if control:
        return f"the prompt holds the control character U+{ord(control[0]):04X}; remove it"
    if _SURROGATE.search(prompt):
        return "the prompt holds half a surrogate pair, which is not valid Unicode; remove it"
    if not earlier and not _VISIBLE.search(prompt):
        return (
            f"the prompt is invisible: it holds only characters such as U+{ord(prompt[0]):04X}; write one or remove it"
        )
    return None
