"""How much work a search does, counted and not timed: passes of every model, encodings, objects and bytes per row.

A change that makes a model run more often, or sends more to the driver, fails here, whatever the machine's speed.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from noisesmith.actors.generator import GenerateReport
from noisesmith.actors.packs import Position, encode
from noisesmith.actors.scorer import ScoreReport
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.load import load_models
from noisesmith.pipeline.noise import NoiseKey
from noisesmith.pipeline.records import NoiseStats, Row
from noisesmith.pipeline.search.combine import Opinion
from noisesmith.pipeline.search.loop import search_rows
from noisesmith.pipeline.search.tasks import ImageRecord
from tests.actors.world import World, run

PROMPTS = ["a cat", "a dog", "a cat and a red car", "a bird"]
BATCH = 2
ROUNDS = 3
STEPS = 2
CANDIDATES = 7
REPORT_BYTES = 400  # per row: what the driver receives of a call besides references


@pytest.fixture(scope="module")
def work(tiny_sd: Path, tiny_llava: Path) -> Counter[str]:
    """Rows that passed through each model of a whole search, and forward passes that were differentiated."""
    return _count_work(tiny_sd, tiny_llava, STEPS, {})


def _count_work(tiny_sd: Path, tiny_llava: Path, steps: int, optimizer: dict[str, Any]) -> Counter[str]:
    found: Counter[str] = Counter()
    config = RunConfig.model_validate(
        {
            "generators": {"model": str(tiny_sd), "steps": steps, "batch_size": BATCH, "guidance_scale": 4.0},
            "scorers": {"model": str(tiny_llava)},
            "optimizer": {"rounds": ROUNDS, "candidates": CANDIDATES} | optimizer,
        }
    )
    models = load_models(config, "cpu")
    scorer: Any = models.groups[0].members[0].scorer

    def count(name: str, model: torch.nn.Module, what: str) -> None:
        def passed(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], __: object) -> None:
            rows = len(args[0] if args else kwargs[what])
            found[name] += rows
            found[f"{name} backward"] += rows * torch.is_grad_enabled()

        model.register_forward_hook(passed, with_kwargs=True)

    count("unet", models.generator.pipe.unet, "sample")
    count("text encoder", models.generator.pipe.text_encoder, "input_ids")
    count("vae", models.decoder.vae.decoder, "sample")
    count("vlm", scorer.model, "input_ids")
    drawn = NoiseKey._generator

    def draw(key: NoiseKey, index: int) -> Any:
        found["draws"] += 1
        return drawn(key, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NoiseKey, "_generator", draw)
        rows = [Row(index, f"{index:08d}", prompt) for index, prompt in enumerate(PROMPTS)]
        results = list(search_rows(rows, config, models))
    assert [result.rounds for result in results] == [ROUNDS] * len(PROMPTS)
    return found


def test_the_denoiser_runs_twice_per_step_and_image(work: Counter[str]) -> None:
    images = len(PROMPTS) * (1 + ROUNDS)
    assert work["unet"] == 2 * STEPS * images, "with and without the prompt"
    assert work["unet backward"] == 0


def test_a_probe_takes_a_part_of_the_steps_and_the_best_take_only_what_is_left(tiny_sd: Path, tiny_llava: Path) -> None:
    steps, stop, keep = 5, 2, 2
    work = _count_work(tiny_sd, tiny_llava, steps, {"probe": {"at": stop / steps, "keep": keep}})
    assert work["unet"] == 2 * len(PROMPTS) * (steps + ROUNDS * stop + keep * (steps - stop))
    assert work["vlm"] == len(PROMPTS) * (1 + ROUNDS + keep)
    assert work["vlm backward"] == len(PROMPTS) * ROUNDS, "no gradient of what is finished"


def test_a_prompt_and_its_negative_are_encoded_once(work: Counter[str]) -> None:
    assert work["text encoder"] == 2 * len(PROMPTS)


def test_images_are_decoded_to_be_scored_and_those_that_are_written_once_more(work: Counter[str]) -> None:
    images = len(PROMPTS) * (1 + ROUNDS)
    assert images + len(PROMPTS) <= work["vae"] <= images + 2 * len(PROMPTS)


def test_the_scorer_looks_at_an_image_once_and_differentiates_all_but_the_last(work: Counter[str]) -> None:
    images = len(PROMPTS) * (1 + ROUNDS)
    assert work["vlm"] == images
    assert work["vlm backward"] == len(PROMPTS) * ROUNDS
    assert work["vae backward"] == len(PROMPTS) * ROUNDS


def test_each_candidate_is_drawn_once_and_the_chosen_one_once_more(work: Counter[str]) -> None:
    least = len(PROMPTS) * (1 + ROUNDS * (CANDIDATES + 1))
    assert least <= work["draws"] <= least + 2 * CANDIDATES, "nearly equal candidates are drawn twice"


class Waits(World):
    """A world that counts how often the driver wakes up."""

    waits = 0

    def handle(self, seconds: float) -> None:
        self.waits += 1
        super().handle(seconds)


def test_calls_packs_and_wake_ups_per_row_are_few() -> None:
    world = Waits()
    rows, batch = 32, 4
    run(world, rows, optimizer={"rounds": ROUNDS}, rows_in_flight=rows)
    batches = rows // batch * (1 + ROUNDS)
    calls = Counter(sent.stage for sent in world.sent)
    assert calls["generate"] == calls["score"] == batches
    assert calls["put"] <= rows // 2, "rows of a batch that end together are staged together"
    packs = Counter[str]()
    for sent in world.sent:
        packs[sent.stage] += sent.packs
    later = batches - rows // batch
    assert packs["generate"] == 2 * later, "the states and the gradients of a batch that stayed together"
    assert packs["score"] == batches
    assert world.waits <= len(world.sent) + 10, "at most one per answer"


def test_what_the_driver_receives_of_a_call_has_few_bytes_per_row() -> None:
    shape = (16, 128, 128)
    record = ImageRecord(0.5, 1, NoiseStats(0.0, 1.0, 1.0, 0.0), "0" * 32, 8, 20.0, shape)
    places = [Position(row, shape) for row in range(8)]
    made = GenerateReport(1.0, [record] * 8, places, places)
    scored = ScoreReport(1.0, [Opinion((-0.5,), place) for place in places])
    for report in (made, scored):
        assert len(encode(report)) <= REPORT_BYTES * 8
