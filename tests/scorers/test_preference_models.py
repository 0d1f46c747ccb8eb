"""Preference models: how they were published, their score's scale, and what of their files is refused."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from noisesmith.pipeline.config import JudgeConfig, ScorerConfig
from noisesmith.pipeline.config.calibration import CalibrationConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.scorers import find_judge, find_scorer, load_judge, load_scorer
from noisesmith.pipeline.scorers.calibration import calibrate
from tests import tiny_preferences
from tests.scorers.oracles import FAMILIES

PROMPTS = ["a cat and a red car", "a dog"]
CROPPED = ["hpsv2", "image_reward"]
NAMES = [*CROPPED, "hpsv3"]
FILES = {"hpsv2": "HPS_v2.1_compressed", "image_reward": "ImageReward", "hpsv3": "HPSv3"}
DEEPER = tiny_preferences.REWARD_VISION | tiny_preferences.STANDARD | {"num_hidden_layers": 4}
Build = Callable[..., Path]


def _images(height: int = 41, width: int = 90, count: int = 2) -> torch.Tensor:
    levels = torch.randint(0, 256, (count, 3, height, width), generator=torch.Generator().manual_seed(0))
    return levels.float() / 255


def _load(folder: Path, **options: Any) -> Any:
    return load_scorer(find_scorer(ScorerConfig(model=str(folder), **options)), "cpu")


def _scores(folder: Path, **options: Any) -> torch.Tensor:
    return _load(folder, **options).log_scores(PROMPTS, _images()).exp()


@pytest.mark.parametrize("size", [(41, 90), (90, 41), (44, 61)])
@pytest.mark.parametrize("name", CROPPED)
def test_an_image_is_cropped_where_its_authors_crop_it(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    """The middle lies between two pixels: torchvision rounds it to even, the library's processors cut it off."""
    family = FAMILIES[name]
    folder = family.build(tmp_path)
    images = _images(*size, count=1)
    picture = Image.fromarray((images[0] * 255).round().byte().permute(1, 2, 0).numpy())
    expected = family.oracle(folder, family.reference(folder, ""), PROMPTS[0], picture, "yes")
    assert float(_load(folder).log_scores(PROMPTS[:1], images).exp()) == pytest.approx(expected, abs=1e-6)


def test_image_rewards_score_has_the_published_reward_as_its_log_odds(tmp_path: Path) -> None:
    scorer = _load(FAMILIES["image_reward"].build(tmp_path))
    rewards = scorer.rewards(PROMPTS, _images())
    log_scores = scorer.log_scores(PROMPTS, _images()).double()
    assert (log_scores - torch.log(-torch.expm1(log_scores))).tolist() == pytest.approx(rewards.tolist(), abs=1e-5)
    halved = calibrate(log_scores, CalibrationConfig(temperature=2))
    assert halved.tolist() == pytest.approx(torch.nn.functional.logsigmoid(rewards / 2).tolist(), abs=1e-5)


def test_hpsv3s_score_has_the_published_rating_less_that_of_flux_dev_as_its_log_odds(tmp_path: Path) -> None:
    scorer = _load(FAMILIES["hpsv3"].build(tmp_path))
    ratings = scorer.ratings(PROMPTS, _images())
    assert float((ratings[0] - ratings[1]).abs()) > 1e-3
    log_odds = torch.logit(scorer.log_scores(PROMPTS, _images()).exp().double())
    assert (log_odds + 10.43).tolist() == pytest.approx(ratings.tolist(), abs=1e-5)


def test_hpsv3s_positions_are_those_of_words(tmp_path: Path) -> None:
    """The published code asks Qwen2-VL for no positions of rows and columns, with which the rating is another."""
    scorer = _load(FAMILIES["hpsv3"].build(tmp_path))
    ratings = scorer.ratings(PROMPTS, _images())
    by_default = scorer.model.model.forward

    def of_qwen(input_ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, **more: Any) -> Any:
        is_image = (input_ids == scorer.model.config.image_token_id).int()
        return by_default(input_ids, mask, mm_token_type_ids=is_image, **more)

    scorer.model.model.forward = of_qwen
    assert float((scorer.ratings(PROMPTS, _images()) - ratings).abs().min()) > 1e-4


@pytest.mark.parametrize("reward", [-60.0, 60.0])
def test_an_extreme_reward_has_a_finite_log_score_and_a_slope(reward: float, tmp_path: Path) -> None:
    scorer = _load(FAMILIES["image_reward"].build(tmp_path))
    scorer.model.reward[-1].bias.data.fill_(reward)
    images = _images().requires_grad_()
    log_scores = scorer.log_scores(PROMPTS, images)
    assert bool(log_scores.isfinite().all())
    (slope,) = torch.autograd.grad(log_scores.sum(), images)
    assert bool(slope.isfinite().all())
    if reward < 0:
        assert float(slope.abs().max()) > 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_close(name: str, dtype: str, tmp_path: Path) -> None:
    folder = FAMILIES[name].build(tmp_path)
    assert torch.allclose(_scores(folder), _scores(folder, dtype=dtype), atol=0.02)


# As they were published


def _as_published(name: str, tmp_path: Path) -> Path:
    """The pickled weights, without a ``config.json``; ``tmp_path`` also keeps a folder with all files."""
    build: Build = FAMILIES[name].build
    whole = build(tmp_path / "whole", pickled=True)
    folder = tmp_path / "published"
    folder.mkdir()
    for file in (f"{FILES[name]}.pt", "med_config.json"):
        if (whole / file).exists():
            shutil.copy(whole / file, folder)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_pickled_weights_are_read_only_with_the_flag(name: str, tmp_path: Path) -> None:
    build: Build = FAMILIES[name].build
    folder = build(tmp_path / "pickled", pickled=True)
    with pytest.raises(UserError, match=rf"no {FILES[name]}\.safetensors; .*scorers\.allow_pickle=true .*\(\.pt\)"):
        find_scorer(ScorerConfig(model=str(folder)))
    scores = _scores(folder, allow_pickle=True)
    assert torch.equal(scores, _scores(build(tmp_path / "safe")))


@pytest.mark.parametrize(
    ("name", "class_name", "base"),
    [
        ("hpsv2", "HPSv2", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"),
        ("image_reward", "ImageReward", "google-bert/bert-base-uncased"),
        ("hpsv3", "HPSv3", "Qwen/Qwen2-VL-7B-Instruct"),
    ],
)
def test_a_folder_without_a_config_is_known_by_its_weights(
    name: str, class_name: str, base: str, tmp_path: Path
) -> None:
    """Its architecture and tokenizer are then those of the model that its authors began with."""
    folder = _as_published(name, tmp_path)
    found = find_judge(JudgeConfig(name="second", model=str(folder)), ScorerConfig(allow_pickle=True))
    assert found.source.class_name == class_name
    assert found.revision.startswith("local-")
    with pytest.raises(UserError, match=rf"judges\.second\.model \(base_model\): .*hf download {base}"):
        load_judge(found, "cpu")


HUB_IDS = {
    "xswu/HPSv2": ("hpsv2", "BASE"),
    "THUDM/ImageReward": ("image_reward", "TOKENIZER"),
    "zai-org/ImageReward": ("image_reward", "TOKENIZER"),
    "MizzenAI/HPSv3": ("hpsv3", "BASE"),
}


@pytest.mark.parametrize("hub_id", HUB_IDS)
def test_a_hub_model_is_known_by_its_name(hub_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache with the published files, and the models that they began with under their names."""
    name, base_constant = HUB_IDS[hub_id]
    folder = _as_published(name, tmp_path)
    (folder / "README.md").touch()
    base = tmp_path / "whole" / "base"
    whole = json.loads((tmp_path / "whole" / "config.json").read_text())
    monkeypatch.setattr("noisesmith.pipeline.scorers.image_reward.VISION", whole.get("vision_config", {}))
    monkeypatch.setattr(f"noisesmith.pipeline.scorers.{name}.{base_constant}", str(base))

    def cached(repository: str, filename: str, revision: str | None) -> str:
        assert repository == hub_id
        if not (folder / filename).is_file():
            raise huggingface_hub.errors.LocalEntryNotFoundError(filename)
        return str(folder / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", cached)
    found = find_scorer(ScorerConfig(model=hub_id, allow_pickle=True))
    assert found.revision == "published"
    scores = load_scorer(found, "cpu").log_scores(PROMPTS, _images()).exp()
    assert torch.equal(scores, _scores(tmp_path / "whole", allow_pickle=True))


def test_the_older_checkpoint_is_read_where_it_is_the_only_one(tmp_path: Path) -> None:
    folder = FAMILIES["hpsv2"].build(tmp_path)
    expected = _scores(folder)
    file = folder / "HPS_v2.1_compressed.safetensors"
    file.rename(folder / "HPS_v2_compressed.safetensors")
    assert torch.equal(_scores(folder), expected)


# What is refused


@pytest.mark.parametrize("name", NAMES)
def test_weights_that_are_missing_or_too_many_are_refused(name: str, tmp_path: Path) -> None:
    folder = FAMILIES[name].build(tmp_path)
    file = folder / f"{FILES[name]}.safetensors"
    weights = load_file(file)
    lost = next(one for one in weights if ".ln_1." in one or ".norm1." in one)
    save_file({one: value for one, value in weights.items() if one != lost}, file)
    with pytest.raises(UserError, match=r"scorers\.model: .* not laid out as .* \(1 missing, first .*norm1"):
        _load(folder)
    save_file(weights | {"other.weight": torch.ones(2)}, file)
    with pytest.raises(UserError, match=r"scorers\.model: .* \(1 unexpected, first other\.weight\)"):
        _load(folder)


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {"a": 1}}, b"no pickle"])
def test_a_pickle_of_something_else_is_refused(content: Any, tmp_path: Path) -> None:
    build: Build = FAMILIES["image_reward"].build
    folder = build(tmp_path, pickled=True)
    if isinstance(content, bytes):
        (folder / "ImageReward.pt").write_bytes(content)
    else:
        torch.save(content, folder / "ImageReward.pt")
    with pytest.raises(UserError, match=r"scorers\.model: .* cannot be loaded \("):
        _load(folder, allow_pickle=True)


class _Attack:
    """Pickles as a call."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("attacked"),)


def test_a_pickle_that_runs_code_is_refused_even_with_the_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    build: Build = FAMILIES["hpsv2"].build
    folder = build(tmp_path / "attack", pickled=True)
    (folder / "HPS_v2.1_compressed.pt").write_bytes(pickle.dumps({"state_dict": _Attack()}, protocol=2))
    with pytest.raises(UserError, match=r"scorers\.model: .* cannot be loaded"):
        _load(folder, allow_pickle=True)
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize(
    ("name", "file", "changes", "message"),
    [
        ("hpsv2", "config.json", {"base_model": 3}, "base_model in config.json"),
        ("hpsv2", "config.json", {"base_model": "no/such"}, "hf download no/such"),
        ("image_reward", "med_config.json", {"num_attention_heads": None}, "has no num_attention_heads"),
        ("image_reward", "med_config.json", {"num_hidden_layers": 3}, r"not laid out as ImageReward .* missing"),
        ("image_reward", "config.json", {"vision_config": DEEPER}, r"not laid out as ImageReward .* missing"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    name: str, file: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = FAMILIES[name].build(tmp_path)
    content = json.loads((folder / file).read_text()) | changes
    (folder / file).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    with pytest.raises(UserError, match=message):
        _load(folder)


@pytest.mark.parametrize("name", NAMES)
def test_they_answer_no_questions(name: str, tmp_path: Path) -> None:
    folder = FAMILIES[name].build(tmp_path)
    with pytest.raises(UserError, match=r"scorers\.asks: .* which answers none"):
        find_scorer(ScorerConfig(model=str(folder), asks="questions"))
