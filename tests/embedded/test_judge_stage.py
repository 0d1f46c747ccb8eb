"""Stages ``judge`` and ``detector``: pictures that are drawn again, moved pictures, and a training that goes on."""

import dataclasses
import random
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from noisesmith.pipeline.embedded import weights
from noisesmith.pipeline.embedded.grammar import NOUNS, parse_own
from noisesmith.pipeline.embedded.judge import Judge
from noisesmith.pipeline.embedded.training import judge as judge_stage
from noisesmith.pipeline.embedded.training import redrawn
from noisesmith.pipeline.embedded.training.damage import exchanged, touched_cells, without
from noisesmith.pipeline.embedded.training.data import decoded, encoded, pictures
from noisesmith.pipeline.embedded.training.redrawn import GONE, THERE, Redrawn, errors, redraw
from noisesmith.pipeline.embedded.training.scenes import Scene, place
from noisesmith.pipeline.embedded.training.sd import Painter
from noisesmith.pipeline.embedded.training.spin import often_hard
from tests.embedded.conftest import Trained, assert_equal

SCENE = place(parse_own("a cat above a blue car"), random.Random(0))
CAT, CAR = SCENE.items


def test_an_object_has_no_error_in_its_own_render() -> None:
    image = pictures([SCENE])[0]
    assert errors(image, SCENE, CAT) == errors(image, SCENE, CAR) == (0.0, 0.0)


def test_errors_grow_as_one_object_turns_into_another(pipe: StableDiffusionPipeline) -> None:
    other = exchanged(SCENE, CAT, random.Random(0))
    with torch.no_grad():
        own, foreign = encoded(pipe.vae, pictures([SCENE, other])).chunk(2)
        shares = torch.tensor([0.0, 0.3, 0.6, 1.0])[:, None, None, None]
        images = decoded(pipe.vae, torch.lerp(own, foreign, shares * touched_cells(CAT)))
    found: list[float] = []
    for image in images:
        found.append(errors(image, SCENE, CAT)[0])
        assert errors(image, SCENE, CAR)[0] < THERE  # its cells stay
    assert found == sorted(found)
    assert found[0] < THERE < GONE < found[-1]


def test_a_removed_object_is_gone() -> None:
    image = pictures([without(SCENE, CAT)])[0]
    assert errors(image, SCENE, CAT)[0] > GONE
    assert errors(image, SCENE, CAR) == (0.0, 0.0)


def test_another_colour_is_an_error() -> None:
    red = dataclasses.replace(CAR, colour="red")
    image = pictures([dataclasses.replace(SCENE, items=(CAT, red))])[0]
    assert errors(image, SCENE, CAR)[1] > redrawn.COLOURED


def test_what_is_drawn_again_is_found_where_it_was_and_the_rest_is_not(pipe: StableDiffusionPipeline) -> None:
    torch.manual_seed(0)
    asked = [parse_own(text) for text in often_hard(judge_stage.SEEDS["judge"], 48)]
    images, scenes = redraw(asked, random.Random(0), pipe.vae, Painter.of(pipe))
    assert images.shape == (len(scenes), 3, 64, 64)
    assert 16 < len(scenes) <= 48
    assert 0.0 <= float(images.min()) < float(images.max()) <= 1.0
    found = Judge.from_pretrained(weights("judge")).detect(images)
    right: list[bool] = []
    for scene, objects in zip(scenes, found, strict=True):
        names = [(one.noun, one.colour) for one in objects]
        right += [(item.noun, item.colour) in names for item in scene.items]
        right += [noun not in [name for name, _ in names] for noun in NOUNS if noun not in _nouns(scene)]
    assert sum(right) > 0.95 * len(right)


def _nouns(scene: Scene) -> set[str]:
    return {item.noun for item in scene.items}


def test_pictures_that_are_drawn_again_are_kept(pipe: StableDiffusionPipeline, tmp_path: Path) -> None:
    path = tmp_path / "judge-redrawn.pt"
    painter = Painter.of(pipe)
    made = Redrawn.made(painter, pipe.vae, 1, path, 20)
    torch.manual_seed(5)
    again = Redrawn.made(painter, pipe.vae, 1, tmp_path / "again" / path.name, 20)
    read = Redrawn.made(painter, pipe.vae, 1, path, 20)
    assert made.images.shape == (20, 3, 64, 64)
    for other in (again, read):
        assert torch.equal(made.images, other.images)
        assert made.scenes == other.scenes


def test_a_moved_picture_shows_the_moved_scene() -> None:
    images, scenes = judge_stage.shifted(pictures([SCENE] * 20), [SCENE] * 20, random.Random(0))
    assert len({scene.items for scene in scenes}) > 10
    assert torch.allclose(images, pictures(scenes))


@pytest.mark.parametrize("with_painter", [False, True])
def test_a_resumed_judge_ends_in_the_same_state(
    pipe: StableDiffusionPipeline, whole_and_resumed: Trained, with_painter: bool
) -> None:
    settings = dataclasses.replace(judge_stage.SETTINGS, steps=4, batch=2)
    vae, painter = (pipe.vae, Painter.of(pipe)) if with_painter else (None, None)

    def train_into(folder: Path) -> Judge:
        return judge_stage.train(1, folder, vae, painter, settings=settings, log=lambda _: None, count=20)

    assert_equal(*whole_and_resumed(judge_stage, train_into))
