"""One row's search: what it keeps, what it makes next, when it stops, and that its recipe leads to what it kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.noise import NoiseKey, digest, replay, statistics
from noisesmith.pipeline.optimizers import Feedback, Proposal, build_optimizer
from noisesmith.pipeline.records import Result, Row
from noisesmith.pipeline.search.combine import Opinion
from noisesmith.pipeline.search.propose import propose
from noisesmith.pipeline.search.row import RowSearch
from noisesmith.pipeline.search.tasks import ImageRecord

SHAPE = (2, 4, 4)
T = 10
ROW = Row(3, "00000003-abcdef01", "a cat")


def config(**optimizer: Any) -> RunConfig:
    plain = {"method": "random_diffusion"} | optimizer
    return RunConfig.model_validate(
        {"corpus": {"source": "x"}, "generators": {"steps": T}, "optimizer": plain, "seed": 9}
    )


def log(score: float) -> float:
    return math.log(score) if score else -math.inf


def opinions(scores: float | tuple[float, ...]) -> list[Opinion[Tensor]]:
    each = scores if isinstance(scores, tuple) else (scores,)
    return [Opinion((log(score),), None) for score in each]


def drive(
    settings: RunConfig, scores: Sequence[float | tuple[float, ...]]
) -> tuple[RowSearch[Tensor], dict[int, Tensor], Result]:
    """Search with made-up scores, holding only the noises that the search says it needs.

    Args:
        scores: one per image, or of each image one per scorer.
    """
    search: RowSearch[Tensor] = RowSearch(ROW, settings)
    optimizer = build_optimizer(settings.optimizer)
    every: dict[int, Tensor] = {}
    rest = iter(scores)
    while not search.finished:
        image, start = search.next_image(), search.start()
        assert search.next_image() is image
        proposal = Proposal(NoiseKey(settings.seed, ROW.id, image.round).draw(0, SHAPE)[None], 1.0)
        if start is not None and image.rerender:
            proposal = Proposal(start.state)
        elif start is not None:
            assert image.parent is not None
            feedback = Feedback(search.scores[image.parent], torch.ones(SHAPE), 1.0)
            proposal = optimizer.propose(start.state, feedback, search.generate_task().key)
        noise = proposal.state[0]
        every[search.current] = proposal.state
        task = search.generate_task()
        spent = image.steps - image.taken
        record = ImageRecord(proposal.gamma, proposal.index, statistics(noise), digest(noise), 1, spent, SHAPE)
        if image.taken:
            assert start is not None
            assert start.paused is not None
            assert torch.equal(start.paused, noise), "a probe goes on from where it has stopped"
        search.generated(record, proposal.state, noise, noise if task.stop else None)
        search.scored(opinions(next(rest)))
        assert set(search.paused) <= {place for place, turn in enumerate(search.images) if turn.steps < T}
        assert len(search.paused) <= (settings.optimizer.probe.keep if settings.optimizer.probe else 0)
    return search, every, search.result((8, 8), {})


unit = st.floats(0, 1, exclude_max=True)
SHORT = {
    "preview": st.fixed_dictionaries({"steps": st.integers(1, T - 1), "keep": st.integers(1, 3)}),
    "probe": st.fixed_dictionaries({"at": st.sampled_from([0.1, 0.4, 0.9]), "keep": st.integers(1, 3)}),
}
walks = st.fixed_dictionaries(
    {"rounds": st.integers(0, 12)},
    optional={
        "move_from": st.sampled_from(["latest", "best"]),
        "target_score": st.floats(0.5, 1),
        "patience": st.integers(1, 5),
        "short": st.one_of(*(st.fixed_dictionaries({name: rounds}) for name, rounds in SHORT.items())),
        "unet_evaluations": st.integers(4 * T, 12 * T),
    },
)


@settings(max_examples=300)
@given(walk=walks, images=st.sampled_from(["ends", "worst", "all"]), scores=st.lists(unit, min_size=60, max_size=60))
def test_what_is_kept_is_the_best_image_at_full_steps_and_its_recipe_leads_there(
    walk: dict[str, Any], images: str, scores: list[float]
) -> None:
    plain = {name: value for name, value in walk.items() if name != "short"} | walk.get("short", {})
    run = RunConfig.model_validate(config(**plain).model_dump(mode="json") | {"output": {"images": images}})
    search, memories, result = drive(run, scores)
    made = [math.exp(log(score)) for score in scores[: len(result.scores)]]
    full = [score for score, steps in zip(made, result.steps, strict=True) if steps == T]
    assert result.scores == tuple(made)
    assert result.score == max(full)
    assert result.scores[search.kept] == result.score
    assert result.recipe.steps == T
    assert torch.equal(replay(result.recipe, ROW.id), memories[search.kept][0])
    assert result.recipe.digest == digest(memories[search.kept][0])
    at_full_steps = [image for image, steps in enumerate(result.steps) if steps == T]
    worst = min(at_full_steps, key=lambda image: made[image])
    assert search.listed_images() == {"ends": [], "worst": [worst], "all": at_full_steps}[images]
    assert search.written_images()[:2] == [0, search.kept]
    for image, latents in zip(search.written_images(), search.written_latents(), strict=True):
        assert torch.equal(latents, memories[image][0])
    assert set(search.latents) == {0, search.kept, *search.listed_images()}, "no other image will be written"
    assert result.rounds <= run.optimizer.rounds
    most_images, evaluations = run.most_per_row()
    assert len(result.scores) <= most_images
    assert sum(result.evaluations) <= evaluations <= (run.optimizer.unet_evaluations or evaluations)


@settings(max_examples=100)
@given(
    previewed=st.booleans(),
    stores=st.booleans(),
    scores=st.lists(st.tuples(unit, unit), min_size=20, max_size=20),
)
def test_by_rank_the_kept_image_has_the_best_mean_rank_at_full_steps(
    previewed: bool, stores: bool, scores: list[tuple[float, float]]
) -> None:
    method: dict[str, Any] = {"method": "pgd"} if stores else {"method": "random_diffusion"}
    if previewed:
        method |= {"preview": {"steps": 3, "keep": 2}}
    members = [{"name": "a", "weight": 1.0}, {"name": "b", "weight": 2.0}]
    whole = config(**method, rounds=5).model_dump(mode="json") | {"scorers": members, "combine": "rank"}
    run = RunConfig.model_validate(whole)
    search, memories, result = drive(run, scores)
    full = [image for image, steps in enumerate(result.steps) if steps == T]
    ranks = {}
    for image in full:
        above = [sum(scores[other][member] > scores[image][member] for other in full) for member in range(2)]
        ranks[image] = above[0] + 2 * above[1]
    assert search.kept == min(full, key=lambda image: ranks[image])
    assert result.score == search.scores[search.kept]
    assert result.members["a"] == pytest.approx((scores[0][0], scores[search.kept][0]))
    assert torch.equal(search.latents[search.kept], memories[search.kept][0])
    assert result.recipe.digest == digest(memories[search.kept][0])
    if stores:
        assert torch.equal(search.states[search.kept], memories[search.kept])
    assert set(search.latents) == {0, search.kept}


@settings(max_examples=100)
@given(keep=st.integers(1, 3), rounds=st.integers(1, 8), scores=st.lists(unit, min_size=20, max_size=20))
def test_the_best_previews_are_made_again_at_full_steps(keep: int, rounds: int, scores: list[float]) -> None:
    search, memories, result = drive(config(rounds=rounds, preview={"steps": 3, "keep": keep}), scores)
    assert result.steps == (T, *[3] * rounds, *[T] * min(keep, rounds))
    best = sorted(range(1, rounds + 1), key=lambda image: -scores[image])[:keep]
    again = [turn.parent for turn in search.images if turn.rerender]
    assert again == best
    for image, turn in enumerate(search.images):
        if turn.parent is not None and turn.rerender:
            assert torch.equal(memories[image], memories[turn.parent])
    assert result.rounds == rounds


def test_the_best_probes_go_on_from_where_they_have_stopped() -> None:
    scores = [0.3, 0.2, 0.6, 0.5, 0.7, 0.4]
    search, memories, result = drive(config(rounds=3, probe={"at": 0.4, "keep": 2}), scores)
    assert result.steps == (T, 4, 4, 4, T, T)
    assert result.evaluations == (T, 4, 4, 4, T - 4, T - 4)
    assert [turn.parent for turn in search.images if turn.rerender] == [2, 3]
    assert torch.equal(memories[4], memories[2])
    assert result.recipe.steps == T


def test_the_gradient_of_a_probe_counts_as_one_and_that_of_a_full_image_as_another() -> None:
    search: RowSearch[str] = RowSearch(ROW, config(rounds=2, probe={"at": 0.4}))
    record = ImageRecord(1.0, 0, statistics(torch.zeros(SHAPE)), "00", 1, T, SHAPE)
    asked = []
    for score in (0.2, 0.3, 0.1, 0.4):
        task = search.generate_task()
        asked.append((task.steps, task.taken, task.stop, task.scored_at))
        search.generated(record, "state", "z_0", "paused" if task.stop else None)
        search.scored([Opinion((log(score),), None)])
    assert asked == [(T, 0, None, None), (T, 0, 4, None), (T, 0, 4, 4), (T, 4, None, 4)]


def test_a_preview_is_moved_by_the_slope_of_the_steps_that_its_parent_took() -> None:
    """The first image has all steps and its preview three; a preview's own slope is one of three."""
    setting = config(method="pgd", normalize=False, step=1.0, rounds=2, preview={"steps": 3})
    search: RowSearch[Tensor] = RowSearch(ROW, setting)

    class Stub:
        """It makes a slope of z_0 longer by the number of steps: c is their inverse, ∂/∂z_0 is pulled back by n²."""

        def gain(self, steps: int, stop: int | None) -> float:
            return 1 / steps

        def pull_back(self, slope: Tensor, steps: int, stop: int | None) -> Tensor:
            return slope * steps**2

    generator: Any = Stub()
    noise, slope = NoiseKey(0, "row", 0).draw(0, SHAPE), NoiseKey(0, "row", 1).draw(0, SHAPE)
    record = ImageRecord(1.0, 0, statistics(noise), "00", 1, T, SHAPE)
    optimizer = build_optimizer(setting.optimizer)
    steps_of_parents = []
    for score in (0.2, 0.3, 0.4):
        start = search.start()
        if start is not None:
            (proposal,) = propose(optimizer, generator, [search.generate_task()], [start])
            steps_of_parents.append(float((proposal.state[0] - noise).norm() / slope.norm() / search.scores[-1]))
        search.generated(record, noise[None], noise)
        search.scored([Opinion((log(score),), slope)])
    assert steps_of_parents == pytest.approx([T, 3], rel=1e-2)


def test_the_recipe_of_a_finished_probe_has_the_larger_batch_of_its_two_calls() -> None:
    search: RowSearch[str] = RowSearch(ROW, config(rounds=1, probe={"at": 0.4}))
    for batch_size, score in ((1, 0.2), (3, 0.3), (1, 0.4)):
        task = search.generate_task()
        record = ImageRecord(1.0, 0, statistics(torch.zeros(SHAPE)), "00", batch_size, T, SHAPE)
        search.generated(record, "state", "z_0", "paused" if task.stop else None)
        search.scored([Opinion((log(score),), None)])
    assert search.result((8, 8), {}).recipe.batch_size == 3


def test_a_preview_that_only_seemed_to_reach_the_target_lets_the_search_go_on() -> None:
    scores = [0.2, 0.95, 0.4, 0.3, 0.97, 0.93]
    _, _, result = drive(config(rounds=9, target_score=0.9, preview={"steps": 3}), scores)
    assert result.steps == (T, 3, T, 3, 3, T)
    assert (result.stop_reason, result.rounds) == ("target", 3)
    assert result.score == pytest.approx(0.93)


def test_the_search_moves_on_from_the_latest_noise_or_from_the_best() -> None:
    scores = [0.5, 0.2, 0.7, 0.6, 0.1]
    latest, _, _ = drive(config(rounds=4), scores)
    assert [turn.parent for turn in latest.images] == [None, 0, 1, 2, 3]
    best, _, _ = drive(config(rounds=4, move_from="best"), scores)
    assert [turn.parent for turn in best.images] == [None, 0, 0, 2, 2]


@pytest.mark.parametrize(
    ("optimizer", "scores", "reason", "rounds"),
    [
        ({"rounds": 3}, [0.1, 0.2, 0.3, 0.4], "rounds", 3),
        ({"rounds": 9, "target_score": 0.8}, [0.1, 0.85], "target", 1),
        ({"rounds": 9}, [0.1, 1.0], "perfect", 1),
        ({"rounds": 9, "patience": 2}, [0.1, 0.3, 0.2, 0.3], "patience", 3),
        ({"rounds": 9, "unet_evaluations": 35}, [0.1, 0.3, 0.2], "budget", 2),
        ({"rounds": 9, "unet_evaluations": 35, "preview": {"steps": 4}}, [0.1] * 5, "budget", 3),
        ({"rounds": 9, "unet_evaluations": 28, "probe": {"at": 0.4, "keep": 1}}, [0.1] * 5, "budget", 3),
        ({"method": "none"}, [0.1], "rounds", 0),
    ],
)
def test_why_a_search_stops(optimizer: dict[str, Any], scores: list[float], reason: str, rounds: int) -> None:
    _, _, result = drive(config(**optimizer), scores)
    assert (result.stop_reason, result.rounds) == (reason, rounds)
    assert len(result.scores) == len(scores)


def test_an_image_made_again_after_a_failure_replaces_the_first_attempt() -> None:
    search: RowSearch[str] = RowSearch(ROW, config(rounds=1))
    for batch_size in (8, 1):
        search.next_image()
        search.generated(
            ImageRecord(1.0, 0, statistics(torch.zeros(SHAPE)), "00", batch_size, T, SHAPE), "state", "z_0"
        )
    search.scored([Opinion((log(0.5),), None)])
    assert [step.batch_size for step in search.records] == [1]
    assert search.next_image().round == 1
