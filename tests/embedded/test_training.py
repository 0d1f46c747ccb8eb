"""The training code: exact resume, packed questions, the evaluation's arithmetic."""

import dataclasses
import itertools
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from noisesmith.pipeline.config import load_config
from noisesmith.pipeline.embedded import weights
from noisesmith.pipeline.embedded.geometry import truth
from noisesmith.pipeline.embedded.grammar import RELATIONS, parse, parse_own
from noisesmith.pipeline.embedded.judge import Detection, Judge
from noisesmith.pipeline.embedded.training import decoder, guided, spin
from noisesmith.pipeline.embedded.training import judge as judge_stage
from noisesmith.pipeline.embedded.training.architectures import QUESTION, new_processor, new_vlm
from noisesmith.pipeline.embedded.training.data import decoded, pictures
from noisesmith.pipeline.embedded.training.evaluate import balanced
from noisesmith.pipeline.embedded.training.loop import StageSettings, fit, learning_rate
from noisesmith.pipeline.embedded.training.packing import pack, packed_logits, segments, words
from noisesmith.pipeline.embedded.training.pool import as_scene, evaluation_prompts, labelled, near, training_prompts
from noisesmith.pipeline.embedded.training.questions import loosely
from noisesmith.pipeline.embedded.training.scenes import place, sample
from noisesmith.pipeline.embedded.training.sd import Painter
from noisesmith.pipeline.embedded.training.student import normalised
from noisesmith.pipeline.embedded.training.tables import tables
from noisesmith.pipeline.embedded.training.train import STAGES, train
from noisesmith.pipeline.prompts import open_corpus
from tests.embedded.conftest import Trained, assert_equal


def test_a_resumed_training_ends_in_the_same_state(tmp_path: Path) -> None:
    settings = StageSettings("tiny", steps=6, batch=4, lr=1e-2, warmup=2, ema=0.9)

    def run(folder: Path, stop_after: int | None = None) -> torch.nn.Module:
        torch.manual_seed(0)
        module = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))

        def loss_fn(step: int, rng: random.Random) -> tuple[torch.Tensor, dict[str, float]]:
            loss = module(torch.randn(4, 3) + rng.random()).square().mean()
            return loss, {"loss": loss.item()}

        return fit(settings, module, loss_fn, 5, folder, log=lambda _: None, stop_after=stop_after)

    whole = run(tmp_path / "whole")
    run(tmp_path / "halves", stop_after=3)
    halves = run(tmp_path / "halves")
    assert_equal(whole.state_dict(), halves.state_dict())


def test_self_play_goes_on_with_the_round_that_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = dataclasses.replace(spin.SETTINGS, steps=4, batch=2)

    def train_into(folder: str) -> Painter:
        pipe = StableDiffusionPipeline.from_pretrained(weights("v1/sd"))
        begin = Painter.of(pipe)
        return spin.train(1, tmp_path / folder, pipe.vae, begin, settings, lambda _: None, prompts=3, rounds=2)

    drawn_pairs = spin.drawn_pairs

    def interrupted(*arguments: Any) -> spin.Pairs:
        if (tmp_path / "halves" / "spin-00.pt").exists():
            raise KeyboardInterrupt
        return drawn_pairs(*arguments)

    whole = train_into("whole")
    with monkeypatch.context() as patch:
        patch.setattr(spin, "drawn_pairs", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_into("halves")
    resumed = train_into("halves")
    assert_equal(whole.state_dict(), resumed.state_dict())


def test_the_better_picture_of_a_pair_is_a_scene_of_its_prompt() -> None:
    pipe = StableDiffusionPipeline.from_pretrained(weights("sd"))
    painter = Painter.of(pipe)
    asked = ["a cat above a blue car", "a dog and a red balloon"]
    pairs = spin.drawn_pairs(painter, pipe.vae, asked, random.Random(0))
    with torch.no_grad():
        images = decoded(pipe.vae, pairs.scenes)
    judge = Judge.from_pretrained(weights("judge"))
    for image, prompt in zip(images, [asked[0], asked[0], asked[1], asked[1]], strict=True):
        assert judge.faithful(image, prompt) == 1.0


@pytest.mark.parametrize("settings", [guided.SETTINGS, guided.CLEAR_SETTINGS], ids=["guided", "clear"])
def test_a_resumed_guidance_distillation_ends_in_the_same_state(
    whole_and_resumed: Trained, settings: StageSettings
) -> None:
    settings = dataclasses.replace(settings, steps=4, batch=4)

    def train_into(folder: Path) -> Painter:
        pipe = StableDiffusionPipeline.from_pretrained(weights("v1/sd"))
        return guided.train(1, folder, pipe.vae, Painter.of(pipe), settings, lambda _: None, count=8)

    assert_equal(*whole_and_resumed(guided, train_into))


def test_the_second_distillation_is_of_what_animals_wear_and_of_white_things() -> None:
    worn, white, rest = (lesson.pairs for lesson in guided.lessons("clear", 1, 400))
    assert [len(worn), len(white), len(rest)] == [180, 110, 110]
    assert all(parse_own(caption).join == "with" != parse_own(made_from).join for caption, made_from in worn)
    assert all("white" in caption.split() for caption, _ in white)
    assert all(caption == made_from and "white" not in caption.split() for caption, made_from in rest)
    texts = [text for pair in (*worn, *white, *rest) for text in pair]
    assert evaluation_prompts().isdisjoint(text for text in texts if len(text.split()) > 3)  # not one object alone


def test_a_share_of_the_captions_says_wrongly_where_objects_are() -> None:
    related = [pair for pair in guided.captions(1, 1000) if parse_own(pair[0]).join in RELATIONS]
    wrong = [pair for pair in related if pair[0] != pair[1]]
    assert len(wrong) / len(related) == pytest.approx(guided.LOOSE, abs=0.06)
    for caption, made_from in wrong:
        words_of = [sorted(set(text.split()) - {"a", "an"}) for text in (caption, made_from)]
        assert words_of[0] == words_of[1]


def test_only_the_objects_of_a_relation_change_places() -> None:
    rng = random.Random(0)
    for text, expected in {
        "a red car above a blue bow": "a blue bow above a red car",
        "a cat": "a cat",
        "a cat and a dog": "a cat and a dog",
        "a bear with a crown": "a bear with a crown",
    }.items():
        prompt = parse(text)
        assert prompt is not None
        assert str(loosely(prompt, rng, 1.0)) == expected
        assert loosely(prompt, rng, 0.0) == prompt


def test_the_learning_rate_warms_up_and_decays() -> None:
    settings = StageSettings("x", steps=100, batch=1, lr=1.0, warmup=10, floor=0.1)
    rates = [learning_rate(settings, s) for s in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_packed_questions_answer_as_single_ones_do() -> None:
    torch.manual_seed(0)
    vlm, w, rng = new_vlm().eval(), words(), random.Random(0)
    scenes = [sample(rng) for _ in range(2)]
    images = pictures(scenes)
    rows = [segments(s, rng, w, 4) for s in scenes]
    packed = pack(rows)
    with torch.no_grad():
        hidden = vlm.model.vision_tower(normalised(images), output_hidden_states=True).hidden_states[-1]
        logits = packed_logits(vlm, vlm.model.multi_modal_projector(hidden[:, 1:]), w, packed)
        for b, row in enumerate(rows):
            for number, (ids, _) in enumerate(row):
                whole = w.before + [vlm.config.image_token_id] * 64 + w.opening + ids
                alone = vlm(input_ids=torch.tensor([whole]), pixel_values=normalised(images[b : b + 1])).logits
                torch.testing.assert_close(
                    logits[b][packed.segment[b] == number], alone[0, -len(ids) :], atol=1e-5, rtol=0
                )


def test_training_asks_what_the_processor_writes() -> None:
    w, processor = words(), new_processor()
    text = f"USER: <image>\n{QUESTION.format('a cat and a red car')} ASSISTANT:"
    ids = processor(images=[Image.new("RGB", (64, 64))], text=[text], return_tensors="pt").input_ids[0].tolist()
    image = processor.tokenizer.convert_tokens_to_ids("<image>")
    prompt = [w.vocabulary[word] for word in ["a", "cat", "and", "a", "red", "car"]]
    assert ids == w.before + [image] * 64 + w.opening + prompt + w.closing


CAT = Detection("cat", None, 30, 12, 24, 0.9)
CAR = Detection("car", "red", 30, 44, 24, 0.9)


def test_detections_become_a_scene() -> None:
    scene = as_scene([CAT, CAR])
    assert scene is not None
    assert scene.layout == "above"
    assert as_scene([CAT, dataclasses.replace(CAT, x=10)]) is None
    assert as_scene([]) is None


def test_a_generated_picture_is_asked_about_what_is_near_to_its_prompt() -> None:
    prompt = parse("a cat above a blue car")
    assert prompt is not None
    rng = random.Random(0)
    asked = [str(one) for one in near(prompt, rng)]
    assert asked[:3] == ["a cat", "a blue car", "a blue car above a cat"]
    assert asked[3] in ("a blue car below a cat", "a blue car under a cat")
    known_words = words()
    rows = labelled([CAT, CAR], prompt, rng, known_words, 8)
    answers = [targets[-1] == known_words.yes for _, targets in rows]
    assert answers[:5] == [False, True, False, False, False]
    assert len(rows) == 8


@pytest.mark.parametrize("source", ["embedded-complex", "quickstart", "paper"])
def test_no_evaluation_prompt_is_trained_on(source: str) -> None:
    excluded = evaluation_prompts()
    config = load_config(Path(__file__).parents[2] / "configs" / f"{source}.yaml")
    for row in open_corpus(config).rows():
        assert row.prompt in excluded
    for seed in (1, 2):
        assert excluded.isdisjoint(training_prompts(seed, 500))
        assert excluded.isdisjoint(spin.often_hard(seed, 300))
        for begin in (decoder.SEEDS, guided.SEEDS["guided"], *judge_stage.SEEDS.values()):
            assert excluded.isdisjoint(spin.often_hard(begin + seed, 300))
        texts = [text for pair in guided.captions(seed, 300) for text in pair]
        assert excluded.isdisjoint(text for text in texts if len(text.split()) > 3)  # not one object alone


def test_what_an_animal_wears_is_drawn_as_lying_on_it() -> None:
    worn = [pair for pair in guided.captions(1, 1000) if parse_own(pair[0]).join == "with"]
    assert ("a bird with a pink crown", "a pink crown on a bird") in worn
    for caption, made_from in worn:
        scene = place(parse_own(made_from), random.Random(1))
        assert truth(scene.items, parse_own(caption))


def test_what_evaluations_let_animals_wear_is_trained_on_in_a_named_colour() -> None:
    worn = [parse_own(prompt) for prompt in training_prompts(1, 1500) if " with " in prompt]
    pairs: set[tuple[str, str]] = set()
    for prompt in worn:
        wearer, thing = prompt.phrases
        assert truth(place(prompt, random.Random(1)).items, prompt)
        if thing.colour is not None:
            pairs.add((wearer.noun, thing.noun))
    assert len(pairs) >= 25  # evaluations ask for 30 of the 36
    assert evaluation_prompts().isdisjoint(str(prompt) for prompt in worn)


def test_self_play_draws_hard_prompts_more_often() -> None:
    def hard_share(asked: list[str]) -> float:
        return sum(any(word in prompt.split() for word in spin.HARD) for prompt in asked) / len(asked)

    assert hard_share(training_prompts(1, 600)) < 0.65 < 0.8 < hard_share(spin.often_hard(1, 600))


def test_balanced_accuracy_weighs_both_answers_alike() -> None:
    assert balanced([(True, True)] * 9 + [(False, False)]) == 0.5


def test_figures_become_the_tables_of_the_model_card() -> None:
    figures = {
        "alone, guidance 1: cat": 0.5,
        "alone, guidance 3: cat": 1.0,
        "by eye, v1: judge agrees": 0.75,
        "by eye, v1: judge precision": 0.5,
        "vlm balanced accuracy": 0.25,
    }
    assert tables(figures).split("\n") == [
        "| alone | guidance 1 | guidance 3 |",
        "| --- | --- | --- |",
        "| cat | 0.500 | 1.000 |",
        "",
        "| against labels by eye | v1: agrees | v1: precision |",
        "| --- | --- | --- |",
        "| judge | 0.750 | 0.500 |",
        "",
        "| measure | value |",
        "| --- | --- |",
        "| vlm balanced accuracy | 0.250 |",
    ]


@pytest.mark.slow
def test_each_stage_of_the_diffusion_model_goes_on_from_the_one_before(tmp_path: Path) -> None:
    """A step or three each; self-play has none at this scale."""
    stages = STAGES[: STAGES.index("judge")]
    assert stages == ("vae", "sd", "spin", "guided", "clear", "decoder")
    out = tmp_path / "out"
    train(out, tmp_path / "checkpoints", scale=0.0005, stages=stages, log=lambda _: None)
    unet = StableDiffusionPipeline.from_pretrained(out / "sd").unet
    first = StableDiffusionPipeline.from_pretrained(weights("v1/sd")).unet
    assert any(
        not torch.equal(ours, theirs) for ours, theirs in zip(unet.parameters(), first.parameters(), strict=True)
    )


def test_an_unknown_stage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no stage 'vaw'"):
        train(tmp_path, tmp_path, stages=["vaw"])
    with pytest.raises(FileNotFoundError, match="stage vae has no checkpoint"):
        train(tmp_path, tmp_path, stages=["sd"])
    with pytest.raises(FileNotFoundError, match="stage clear has no checkpoint"):
        train(tmp_path, tmp_path, stages=["judge"])
