"""The grammar, the sprites and the scenes: what is drawn, what is true of it, what is asked."""

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noisesmith.pipeline.embedded.geometry import half_extent, holds, truth
from noisesmith.pipeline.embedded.grammar import (
    ANIMALS,
    COLOURS,
    JOINS,
    NOUNS,
    RELATIONS,
    THINGS,
    Phrase,
    ScenePrompt,
    parse,
    prompts,
)
from noisesmith.pipeline.embedded.sprites import Floats, sprite
from noisesmith.pipeline.embedded.training.questions import NEGATIVES, caption, possible, question
from noisesmith.pipeline.embedded.training.scenes import LAYOUTS, Item, place, render, sample

phrases = st.builds(Phrase, st.sampled_from(NOUNS), st.sampled_from((None, *COLOURS)))
scene_prompts = st.one_of(
    st.builds(ScenePrompt, phrases), st.builds(ScenePrompt, phrases, st.sampled_from(JOINS), phrases)
)


@given(scene_prompts)
def test_a_prompt_reads_back_as_it_was_written(prompt: ScenePrompt) -> None:
    assert parse(str(prompt)) == prompt
    assert parse(f"  {str(prompt).upper()}. ") == prompt


@pytest.mark.parametrize("text", ["", "a unicorn", "cat", "a cat near a dog", "two cats", "a cat and a dog and a car"])
def test_other_texts_are_not_prompts(text: str) -> None:
    assert parse(text) is None


def test_prompts_repeat_with_their_seed() -> None:
    def first(grammar: str, seed: int) -> list[str]:
        stream = prompts(grammar, seed)
        return [str(next(stream)) for _ in range(20)]

    assert first("complex", 3) == first("complex", 3) != first("complex", 4)
    with pytest.raises(ValueError, match="no grammar 'hard'"):
        next(prompts("hard", 0))


def item(noun: str, x: float, y: float, colour: str | None = None) -> Item:
    return Item(noun, colour, x, y, 24)


CAT_ON_BOWL = (item("cat", 30, 20), item("bowl", 32, 40, "red"))
CAT_FAR_ABOVE_BOWL = (item("cat", 30, 14), item("bowl", 32, 50, "red"))
CAT_NEXT_TO_BOWL = (item("cat", 16, 30), item("bowl", 46, 34, "red"))
CROWNED_CAT = (Item("crown", "blue", 32, 20, 20), Item("cat", None, 32, 38, 28))


@pytest.mark.parametrize(
    ("items", "text", "expected"),
    [
        (CAT_ON_BOWL, "a cat on a red bowl", True),
        (CAT_ON_BOWL, "a cat above a bowl", True),
        (CAT_ON_BOWL, "a bowl under a cat", True),
        (CAT_ON_BOWL, "a bowl below a cat", True),
        (CAT_ON_BOWL, "a bowl on a cat", False),
        (CAT_ON_BOWL, "a cat on a blue bowl", False),
        (CAT_ON_BOWL, "a cat and a red bowl", True),
        (CAT_FAR_ABOVE_BOWL, "a cat above a bowl", True),
        (CAT_FAR_ABOVE_BOWL, "a cat on a bowl", False),
        (CAT_FAR_ABOVE_BOWL, "a cat under a bowl", False),
        (CAT_NEXT_TO_BOWL, "a bowl and a cat", True),
        (CAT_NEXT_TO_BOWL, "a cat above a bowl", False),
        (CAT_NEXT_TO_BOWL, "a cat on a bowl", False),
        (CAT_NEXT_TO_BOWL, "a cat", True),
        (CAT_NEXT_TO_BOWL, "a dog", False),
        (CAT_NEXT_TO_BOWL, "a dog and a red bowl", False),
        (CROWNED_CAT, "a cat with a crown", True),
        (CROWNED_CAT, "a cat with a bow", False),
        ((item("crown", 10, 20, "blue"), item("cat", 50, 38)), "a cat with a crown", False),
        ((item("cat", 20, 20),), "a cat and a cat", False),
    ],
)
def test_truth_follows_the_geometry(items: tuple[Item, ...], text: str, expected: bool) -> None:
    prompt = parse(text)
    assert prompt is not None
    assert truth(items, prompt) is expected


@given(st.integers(0, 10**9), st.sampled_from(LAYOUTS))
@settings(max_examples=150)
def test_scenes_hold_their_captions_and_stay_in_the_picture(seed: int, layout: str) -> None:
    rng = random.Random(seed)
    scene = sample(rng, layout)
    assert scene.layout == layout
    assert truth(scene.items, caption(scene, rng, loose=0.5))
    for one in scene.items:
        half_width, half_height = half_extent(one)
        assert half_width - 1 <= one.x <= 65 - half_width
        assert half_height - 1 <= one.y <= 65 - half_height


@given(st.integers(0, 10**9), st.sampled_from(("and", "on", "above")))
@settings(max_examples=150)
def test_a_layout_makes_exactly_its_own_relations_true(seed: int, layout: str) -> None:
    upper, lower = sample(random.Random(seed), layout).items
    expected: dict[str, set[str]] = {"and": set(), "on": {"on", "above"}, "above": {"above"}}
    assert {relation for relation in RELATIONS if holds(relation, upper, lower)} == expected[layout]


@given(st.integers(0, 10**9))
@settings(max_examples=150)
def test_a_scene_made_for_a_prompt_fulfils_it(seed: int) -> None:
    rng = random.Random(seed)
    for grammar in ("simple", "complex"):
        prompt = next(prompts(grammar, seed))
        assert truth(place(prompt, rng).items, prompt)


@given(st.integers(0, 10**9))
@settings(max_examples=150)
def test_negatives_are_false_and_of_their_kind(seed: int) -> None:
    rng = random.Random(seed)
    scene = sample(rng)
    for kind in NEGATIVES:
        if possible(scene, kind):
            asked = question(scene, rng, False, kind)
            assert asked.kind == kind
            assert not truth(scene.items, asked.prompt)
    assert truth(scene.items, question(scene, rng, True).prompt)


def test_an_impossible_negative_is_refused() -> None:
    with pytest.raises(ValueError, match="no order negative exists for a single scene"):
        question(sample(random.Random(0), "single"), random.Random(0), False, "order")


def test_scenes_repeat_with_their_seed() -> None:
    first, again = (sample(random.Random(7)) for _ in range(2))
    assert first == again
    picture = render(first)
    assert picture.shape == (64, 64, 3)
    assert picture.dtype == np.uint8
    assert (picture == render(again)).all()


def test_every_noun_and_layout_appears() -> None:
    rng = random.Random(0)
    scenes = [sample(rng) for _ in range(600)]
    assert {i.noun for s in scenes for i in s.items} == set(NOUNS)
    assert set(Counter(s.layout for s in scenes)) == set(LAYOUTS)


def mean_colour(noun: str, colour: str) -> Floats:
    rgba = sprite(noun, colour, 24)
    mean: Floats = (rgba[..., :3] * rgba[..., 3:]).sum((0, 1)) / rgba[..., 3].sum()
    return mean


@pytest.mark.parametrize("noun", THINGS)
def test_the_colours_of_a_thing_are_told_apart(noun: str) -> None:
    means = np.stack([mean_colour(noun, c) for c in COLOURS])
    apart = np.linalg.norm(means[:, None] - means[None], axis=-1) + np.eye(len(COLOURS))
    assert apart.min() > 0.10


def test_the_shapes_are_told_apart() -> None:
    def gray(noun: str) -> Floats:
        canvas = np.full((24, 24), 0.85, np.float32)
        rgba = sprite(noun, "gray" if noun in THINGS else None, 24)
        h, w = rgba.shape[:2]
        top, left = (24 - h) // 2, (24 - w) // 2
        view = canvas[top : top + h, left : left + w]
        view += rgba[..., 3] * (rgba[..., :3].mean(-1) - view)
        return canvas

    pictures = np.stack([gray(n) for n in NOUNS])
    apart = np.abs(pictures[:, None] - pictures[None]).mean((-1, -2)) + np.eye(len(NOUNS))
    assert apart.min() > 0.04
    assert all(sprite(n, None, 24).max() <= 1 for n in ANIMALS)


@pytest.mark.parametrize("colour", COLOURS)
def test_the_hands_of_a_clock_stand_out_from_its_face(colour: str) -> None:
    """The hands are 2.8 pixels wide in a scene, so that the autoencoder keeps them."""
    rgb = sprite("clock", colour, 24)[..., :3]
    hand = rgb[7:10, 11:13].mean((0, 1))
    face = rgb[7:10, 6:8].mean((0, 1))
    assert np.abs(hand - face).max() > 0.45
