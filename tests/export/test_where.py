"""``--where``: Python's own comparisons are the reference; null and NaN leave a row out; a mistake is one sentence."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.export.where import read_where

COLUMNS = {
    "score": "double",
    "judge_eye": "double",
    "n": "int64",
    "large": "uint64",
    "half": "halffloat",
    "price": "decimal128(12, 3)",
    "accepted": "bool",
    "topic": "string",
    "odd-name": "double",
    "class": "string",
    "recipe": "struct<seed: int64>",
    "day": "date32[day]",
}


def row(**values: Any) -> dict[str, Any]:
    return dict.fromkeys(COLUMNS) | values


def holds(text: str, **values: Any) -> bool:
    return read_where(text, COLUMNS).holds([row(**values)])[0]


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        ("score >= .9 and judge_eye >= .5", {"score": 0.9, "judge_eye": 0.5}, True),
        ("score >= .9 and judge_eye >= .5", {"score": 0.9, "judge_eye": 0.49}, False),
        ("score > 1 or n == 3", {"score": 0.5, "n": 3}, True),
        ("not (score > .5)", {"score": 0.4}, True),
        ("not accepted", {"accepted": False}, True),
        ("accepted == True", {"accepted": True}, True),
        ("0.2 < score <= 0.4", {"score": 0.4}, True),
        ("0.2 < score <= 0.4", {"score": 0.2}, False),
        ("n > -2", {"n": -1}, True),
        ("n > 2.5", {"n": 2**53 + 1}, True),
        ("n == 9007199254740993", {"n": 2**53 + 1}, True),
        ("n == 9007199254740993", {"n": 2**53}, False),
        ("n < 99999999999999999999", {"n": 2**63 - 1}, True),
        ("large > 5", {"large": 2**64 - 1}, True),
        ("half < .6", {"half": 0.5}, True),
        ("price > 1", {"price": Decimal("1.250")}, True),
        ("price > 1", {"price": "1.250"}, True),  # as tars hold it
        ('topic in ["animals", "tools"]', {"topic": "tools"}, True),
        ('topic not in ("animals", "tools")', {"topic": "tools"}, False),
        ("n in {1, 2.0}", {"n": 2}, True),
        ('"ool" in topic', {"topic": "tools"}, True),
        ('"a.*" not in topic', {"topic": "animals"}, True),
        ('topic == "Größe\\n\\"x\\""', {"topic": 'Größe\n"x"'}, True),
        ('col("odd-name") == 1', {"odd-name": 1.0}, True),
        ('col("class") == "x"', {"class": "x"}, True),
        ("score == judge_eye", {"score": 0.5, "judge_eye": 0.5}, True),
        ("n >= score", {"n": 1, "score": 0.5}, True),
        ("judge_eye is None", {}, True),
        ("judge_eye is None", {"judge_eye": math.nan}, True),
        ("judge_eye is not None", {"judge_eye": 0.0}, True),
        ("  score>.5 ", {"score": 1.0}, True),
    ],
)
def test_rows_that_match(text: str, values: dict[str, Any], expected: bool) -> None:
    assert holds(text, **values) is expected


@pytest.mark.parametrize(
    "text",
    [
        "score > .5",
        "not score > .5",
        "score != 1",
        "accepted",
        "not accepted",
        'topic not in ["a"]',
        '"a" not in topic',
    ],
)
@pytest.mark.parametrize("value", [None, math.nan])
def test_what_is_not_known_matches_nothing(text: str, value: Any) -> None:
    assert not holds(text, score=value)


@given(
    a=st.none() | st.integers(-3, 3),
    b=st.none() | st.sampled_from([-0.5, 0.0, 1.0, 2.5]),
    left=st.sampled_from(["<", "<=", "==", "!=", ">", ">="]),
    right=st.sampled_from(["<", "<=", "==", "!=", ">", ">="]),
    joined=st.sampled_from(["and", "or", "and not", "or not"]),
)
@settings(max_examples=80)
def test_logic_is_that_of_python_with_three_values(
    a: int | None, b: float | None, left: str, right: str, joined: str
) -> None:
    """The reference is Python over both values an unknown comparison could have: true only where both agree."""
    text = f"n {left} 1 {joined} score {right} 0.5"
    outcomes = set()
    for first in (True, False) if a is None else (eval(f"{a} {left} 1"),):
        for second in (True, False) if b is None else (eval(f"{b} {right} 0.5"),):
            outcomes.add(eval(f"{first} {joined} {second}"))
    assert holds(text, n=a, score=b) is (outcomes == {True})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("scor >= .9", "no column 'scor'; did you mean 'score'?"),
        ("zzz >= .9", "no column 'zzz'; it has score, judge_eye"),
        ('col("zzz") > 1', "no column 'zzz'"),
        ("score", "score holds numbers and is no condition; compare it"),
        ("score and accepted", "score holds numbers and is no condition"),
        ("score >= 'high'", "score holds numbers and cannot be compared with 'high', which holds text"),
        ("accepted > 0", "accepted holds true or false and cannot be compared with 0"),
        ("topic in [1]", "topic holds text and cannot be compared with 1"),
        ("n in [topic]", "'topic' is no literal"),
        ("n in []", "the list after n in is empty"),
        ("n in topic", "n in topic is not understood"),
        ("recipe == 1", "the column 'recipe' holds struct<seed: int64>, which cannot be compared"),
        ("day > '2026-01-01'", "the column 'day' holds date32[day], which cannot be compared"),
        ("score = .9", "'score = .9' cannot be read"),
        ("score >= .9 AND accepted", "cannot be read"),
        ("score >= .9 & accepted", "write and, or"),
        ("score == None", "write is None or is not None"),
        ("score is 3", "'3' cannot follow is"),
        ("", "write it as in score >= 0.9"),
        ("\0", "cannot be read"),
        ("n > 1" + "0" * 400, "cannot be read"),
        ("accepted or " * 200 + "accepted", "at most 2000"),
        ("not " * 490 + "accepted and score", "--where"),
        ("(" * 300 + "accepted" + ")" * 300, "cannot be read"),
        ("-True == accepted", "True has no sign"),
        ("score > 1j", "literals are numbers, texts, True and False"),
        ("score > b'x'", "literals are numbers, texts, True and False"),
    ],
)
def test_a_mistake_is_one_sentence_with_a_remedy(text: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        read_where(text, COLUMNS)
    assert words in str(caught.value)
    assert str(caught.value).startswith("--where: ")


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch /tmp/x') == 0",
        "open('/etc/passwd') == 1",
        "score.__class__ == 1",
        "topic[0] == 'a'",
        "(lambda: 1)() == 1",
        "[n for n in (1, 2)] == 1",
        "f'{score}' == 'x'",
        "(n := 1) == 1",
        "n if accepted else score",
        "n ** 99999999 > 1",
        "await n",
        "col(topic) == 1",
        "*score",
        "print",
        "read_parquet('/etc/passwd')",
    ],
)
def test_nothing_is_executed(text: str) -> None:
    with pytest.raises(UserError, match="--where"):
        read_where(text, COLUMNS)
