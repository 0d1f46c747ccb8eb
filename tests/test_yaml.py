"""What YAML may hold: no key twice in one mapping, and no integer of thousands of digits, wherever it is read."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from noisesmith.pipeline.bench.variants import choose
from noisesmith.pipeline.config import load_config
from noisesmith.pipeline.config.unique import KeyTwice, load_unique
from noisesmith.pipeline.errors import UserError

TWICE = {
    "a: 1\nb: 2\na: 3\n": ("a", "lines 1 and 3"),
    "top:\n  deep:\n    - x: {p: 1}\n      y: 1\n      'x': 2\n": ("x", "lines 3 and 5"),
    "{a: 1, b: {c: 1, c: 1}}": ("c", "line 1"),
    "0.5: 1\n0.50: 2\n": ("0.50", "lines 1 and 2"),
    "1: one\n\n1.0: two\n": ("1.0", "lines 1 and 3"),
    "yes: 1\ntrue: 2\n": ("true", "lines 1 and 2"),
    "base: &b {p: 1}\n<<: *b\n<<: *b\n": ("<<", "lines 2 and 3"),
    "~: 1\nnull: 2\n": ("null", "lines 1 and 2"),
}


@pytest.mark.parametrize("text", TWICE, ids=range(len(TWICE)))
def test_a_key_twice_is_named_with_its_lines(text: str) -> None:
    key, lines = TWICE[text]
    with pytest.raises(KeyTwice) as caught:
        load_unique(text)
    assert f"{key!r} stands twice ({lines})" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "base: &b {p: 1, q: 2}\nrow: {<<: *b, p: 3}\nrows: [*b, *b]\n",
        "outer: {inner: &i {<<: {p: 1}, p: 2}}\nother: {<<: *i, p: 3}\n",
        "'1': text\n1: number\n",
        "a: {x: 1}\nb: {x: 1}\n",
    ],
)
def test_other_keys_may_be_alike(text: str) -> None:
    assert load_unique(text) == yaml.safe_load(text)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=4),
    max_leaves=10,
)


@given(VALUES)
def test_all_else_is_read_as_the_library_reads_it(value: object) -> None:
    text = yaml.safe_dump(value, allow_unicode=True)
    assert load_unique(text) == yaml.safe_load(text)


def test_a_section_twice_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("name: x\noptimizer: {rounds: 20}\noutput: {dir: run}\noptimizer: {candidates: 10}\n")
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert str(caught.value) == (
        f"{path}: 'optimizer' stands twice (lines 2 and 4), and only the last one would count; remove one"
    )


def test_a_key_twice_in_an_override_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("name: x\n")
    with pytest.raises(UserError, match=r"^override optimizer: 'rounds' stands twice \(line 1\)"):
        load_config(path, ["optimizer={rounds: 1, rounds: 2}"])


def test_a_variant_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "variants.yaml"
    path.write_text("slow: {method: pgd, step: 0.01}\nslow: {method: pgd, step: 0.02}\n")
    with pytest.raises(UserError, match=r"variants\.yaml: 'slow' stands twice \(lines 1 and 2\)"):
        choose(None, path)


@pytest.mark.parametrize("number", ["0x" + "f" * 5000, "0b" + "1" * 20_000, "1" * 5000])
def test_an_integer_that_python_does_not_print_is_refused(tmp_path: Path, number: str) -> None:
    """Libraries that print it in a message would fail instead of showing the message."""
    path = tmp_path / "config.yaml"
    path.write_text(f"name: x\nseed: {number}\n")
    with pytest.raises(UserError, match=r"config.yaml: is not valid YAML \(.*digits"):
        load_config(path)
