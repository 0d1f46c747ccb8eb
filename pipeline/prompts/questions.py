"""Questions about a prompt's parts and edits of the prompt, as the columns of a corpus list them."""

from __future__ import annotations

import json
from collections.abc import Sequence

from noisesmith.pipeline.records import Question

EDITS_EXAMPLE = '["a dog above a cat"]'
EXAMPLE = '[{"question": "Is there a cat?", "answer": "Yes"}]'


def question_list(value: object) -> tuple[Question, ...]:
    """Return the questions in a column's value; none where it is null or empty.

    Args:
        value: a list whose items are objects with ``question`` and ``answer``, whose other keys are not read, or pairs
            [question, answer]; or such a list as JSON text.

    Raises:
        ValueError: it is something else; the message says what, for use inside a sentence.
    """
    questions = []
    for number, item in enumerate(_items(value, "questions"), 1):
        questions.append(_question(item, f"question {number}"))
    return tuple(questions)


def edit_list(value: object) -> tuple[str, ...]:
    """Return the edits of a prompt in a column's value, a list of texts or such a list as JSON text; none where null.

    Raises:
        ValueError: as :func:`question_list`.
    """
    edits = []
    for number, item in enumerate(_items(value, "edits"), 1):
        edits.append(_checked(item, f"edit {number}"))
    return tuple(edits)


def _items(value: object, what: str) -> Sequence[object]:
    items = _parsed(value) if isinstance(value, str) else value
    if items is None:
        return ()
    if not isinstance(items, list | tuple):
        raise ValueError(f"holds {_shown(items)} where a list of {what} is expected")  # noqa: TRY004
    return items


def _parsed(text: str) -> object:
    if not text.strip():
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"holds {_shown(text)}, which is no list in JSON") from error


def _question(item: object, which: str) -> Question:
    if isinstance(item, dict):
        text, answer = item.get("question"), item.get("answer")
    elif isinstance(item, list | tuple) and len(item) == 2:
        text, answer = item
    else:
        raise ValueError(f"{which} is {_shown(item)}, which is no question with its answer")
    return Question(_checked(text, f"the text of {which}"), _checked(answer, f"the answer of {which}"))


def _checked(value: object, what: str) -> str:
    problem = _text_problem(value)
    if problem is not None:
        raise ValueError(f"{what} {problem}")
    return str(value)


def _text_problem(value: object) -> str | None:
    if value is None:
        return "is missing"
    if not isinstance(value, str):
        return f"is {_shown(value)}, but must be text"
    if not value.strip():
        return "is empty"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "holds half a surrogate pair, which is not valid Unicode"
    return None


def _shown(value: object) -> str:
    return json.dumps(value, default=str)[:40]
