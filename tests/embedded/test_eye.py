"""The images labelled by eye: complete, split by prompt, and apart from what the models learn from."""

import itertools

from noisesmith.pipeline.embedded.grammar import parse, prompts
from noisesmith.pipeline.embedded.training.evaluate import _agreement
from noisesmith.pipeline.embedded.training.eye import COUNT, SEARCHED, SEED, read_images, read_labels


def test_every_image_has_a_prompt_and_a_label() -> None:
    seen, images = read_images()
    assert len(seen) == len(read_labels()) == COUNT
    assert images.shape == (COUNT, 3, 64, 64)
    assert 0.0 <= float(images.min()) < float(images.max()) <= 1.0
    assert all(parse(one.prompt) is not None for one in seen)


def test_no_prompt_is_in_both_halves() -> None:
    seen, _ = read_images()
    halves: dict[bool, set[str]] = {False: set(), True: set()}
    for one in seen:
        halves[one.held_out].add(one.prompt)
    assert not halves[False] & halves[True]
    assert min(len(half) for half in halves.values()) > COUNT / 8


def test_searched_images_are_of_the_grammars_prompts_and_come_in_pairs_or_once() -> None:
    seen, _ = read_images()
    for grammar, count in SEARCHED.items():
        asked = {str(prompt) for prompt in itertools.islice(prompts(grammar, SEED), count)}
        assert asked <= {one.prompt for one in seen if one.origin == "first"}


def test_precision_and_recall_count_what_was_accepted() -> None:
    figures = _agreement([True, True, False, False], [True, False, False, True])
    assert figures == {"agrees": 0.5, "precision": 0.5, "recall": 0.5}
    assert _agreement([False], [True])["precision"] == 0.0
