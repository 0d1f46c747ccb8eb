"""Edits of a prompt: what an image of the prompt does not show."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noisesmith.pipeline.embedded import grammar
from noisesmith.pipeline.text.edits import edits

TABLE = {
    "a cat above a dog": ["a dog above a cat", "a cat below a dog"],
    "a red car on an orange bench": [
        "an orange bench on a red car",
        "a red car under an orange bench",
        "an orange car on a red bench",
    ],
    "a cat and a red car": ["a cat and a blue car"],
    "a red car and a red bowl": ["a blue car and a red bowl", "a red car and a blue bowl"],
    "A fox is sitting on the  grass": ["the grass is sitting on A fox", "A fox is sitting under the grass"],
    "a fox to the left of a box": ["a box to the left of a fox", "a fox to the right of a box"],
    "a fox next to a brown box": ["a fox next to a blue box"],
    # If two foxes exchange their colours, the prompt says the same again, unless something else tells the foxes apart.
    "a red fox and a blue fox": ["a yellow fox and a blue fox", "a red fox and a yellow fox"],
    "a red fox next to an orange fox": ["a blue fox next to an orange fox", "a red fox next to a blue fox"],
    "a black fox and a white fox": ["a red fox and a white fox", "a black fox and a red fox"],
    "a big red fox and a small blue fox": ["a big blue fox and a small red fox"],
    "a red fox on a box and a blue fox": [
        "a box on a red fox and a blue fox",
        "a red fox under a box and a blue fox",
        "a blue fox on a box and a red fox",
    ],
    "a red fox above a blue fox": ["a blue fox above a red fox", "a red fox below a blue fox"],
    "a man wearing a hat": ["a hat wearing a man"],
    "a cat and a dog": [],
    "a red and blue ball": [],
    "a zebra with a hat": [],
}


@pytest.mark.parametrize("prompt", TABLE)
def test_an_edit_changes_one_respect(prompt: str) -> None:
    assert list(edits(prompt)) == TABLE[prompt]


def test_relations_of_the_embedded_world_are_edited_within_it() -> None:
    prompts = grammar.prompts("complex", 5)
    for _ in range(200):
        prompt = next(prompts)
        edited = edits(str(prompt))
        assert len(edited) >= 2
        assert str(prompt) not in edited
        assert all(grammar.parse(edit) is not None for edit in edited)


@given(st.text(max_size=60))
def test_any_text_is_taken(prompt: str) -> None:
    assert isinstance(edits(prompt), tuple)
