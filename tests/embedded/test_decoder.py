"""Stage ``decoder``: what is denoised keeps its places, the encoder stays, and an interrupted training goes on."""

import dataclasses
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline

from noisesmith.pipeline.embedded import weights
from noisesmith.pipeline.embedded.judge import Judge
from noisesmith.pipeline.embedded.training import decoder
from noisesmith.pipeline.embedded.training.data import decoded, encoded, pictures
from noisesmith.pipeline.embedded.training.scenes import Item, Scene
from noisesmith.pipeline.embedded.training.sd import Painter
from noisesmith.pipeline.embedded.training.vocabulary import token_ids
from tests.embedded.conftest import Trained, assert_equal

SCENE = Scene((Item("cat", None, 30, 14, 22), Item("car", "blue", 30, 46, 22)), "above", (0.8, 0.8, 0.8))


@pytest.mark.parametrize("steps", [0, 3, decoder.DENOISED])
def test_objects_keep_their_places_when_they_are_noised_and_denoised(pipe: StableDiffusionPipeline, steps: int) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        clean = encoded(pipe.vae, pictures([SCENE]))
        latents = decoder.denoised(Painter.of(pipe), clean, token_ids(["a cat above a blue car"]), steps)
        image = decoded(pipe.vae, latents)
    assert torch.equal(latents, clean) == (steps == 0)
    found = Judge.from_pretrained(weights("judge")).detect(image, 0.5)[0]
    places = {(one.noun, one.colour): (one.x, one.y) for one in found}
    assert places.keys() == {("cat", None), ("car", "blue")}
    for item in SCENE.items:
        assert places[item.noun, item.colour] == pytest.approx((item.x, item.y), abs=2.5)


def test_a_resumed_decoder_ends_in_the_same_state_and_the_encoder_stays(
    pipe: StableDiffusionPipeline, whole_and_resumed: Trained
) -> None:
    settings = dataclasses.replace(decoder.SETTINGS, steps=4, batch=2)

    def train_into(folder: Path) -> AutoencoderKL:
        return decoder.train(1, folder, pipe.vae, Painter.of(pipe), settings, lambda _: None, prompts=20)

    whole, resumed = whole_and_resumed(decoder, train_into)
    assert_equal(whole, resumed)
    for name, before in pipe.vae.state_dict().items():
        changes = name.startswith(("decoder.", "post_quant_conv."))
        assert torch.equal(whole[name], before) == (not changes), name
