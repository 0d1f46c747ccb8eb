"""The images labelled by eye: complete, split by prompt, and apart from what the models learn from."""

import itertools

import pytest

from noisesmith.pipeline.embedded.grammar import parse, parse_own, prompts
from noisesmith.pipeline.embedded.training.evaluate import _agreement
from noisesmith.pipeline.embedded.training.eye import (
    COLLECTIONS,
    PRACTICE,
    REPORTED,
    SEARCHED,
    SEED,
    read_images,
    read_labels,
    read_seen,
)
from noisesmith.pipeline.embedded.training.pool import evaluation_prompts, training_prompts

COUNTS = {"v1": 400, "complex": 400, "practice": 340}


@pytest.mark.parametrize("collection", COLLECTIONS)
def test_every_image_has_a_prompt_and_a_label(collection: str) -> None:
    seen, images = read_images(collection)
    both = sum(one.origin == "both" for one in seen)
    assert len(seen) == len(read_labels(collection)) == COUNTS[collection] - both
    assert images.shape == (len(seen), 3, 64, 64)
    assert 0.0 <= float(images.min()) < float(images.max()) <= 1.0
    assert all(parse(one.prompt) is not None for one in seen)


def test_no_prompt_of_version_1_is_in_both_halves() -> None:
    halves: dict[bool, set[str]] = {False: set(), True: set()}
    for one in read_seen("v1"):
        halves[one.held_out].add(one.prompt)
    assert not halves[False] & halves[True]
    assert min(len(half) for half in halves.values()) > 50


def test_nothing_is_chosen_on_the_images_of_the_evaluation() -> None:
    assert all(one.held_out for one in read_seen("complex"))
    assert {one.prompt for one in read_seen("complex")} == {
        str(one) for one in itertools.islice(prompts("complex", 0), 200)
    }


def _names_what_is_worn(text: str) -> bool:
    """Whether it is one of the training prompts that came after these images: "a lion with a red crown"."""
    return " with " in text and parse_own(text).phrases[1].colour is not None


def test_practice_is_of_training_prompts_only() -> None:
    seen = read_seen(PRACTICE)
    assert not any(one.held_out for one in seen)
    asked = {one.prompt for one in seen}
    others = [text for text in dict.fromkeys(training_prompts(500, 450)) if not _names_what_is_worn(text)]
    assert asked == set(others[:170])
    assert evaluation_prompts().isdisjoint(asked)
    assert PRACTICE not in REPORTED


def test_searched_images_of_version_1_are_of_the_grammars_prompts() -> None:
    seen = read_seen("v1")
    for grammar, count in SEARCHED.items():
        asked = {str(prompt) for prompt in itertools.islice(prompts(grammar, SEED), count)}
        assert asked <= {one.prompt for one in seen if one.origin == "first"}


def test_precision_and_recall_count_what_was_accepted() -> None:
    figures = _agreement([True, True, False, False], [True, False, False, True])
    assert figures == {"agrees": 0.5, "precision": 0.5, "recall": 0.5}
    assert _agreement([False], [True])["precision"] == 0.0
