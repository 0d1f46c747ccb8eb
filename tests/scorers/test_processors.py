"""Processors as years of library versions have saved them: their gaps are filled, or one sentence says what is wrong.

No row is needed to find out: a scorer or judge that is loaded for a run scores one image first.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from noisesmith.pipeline.config import JudgeConfig, ScorerConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.scorers import Trial, find_judge, find_scorer, load_judge, load_scorer
from tests import tiny, tiny_families, tiny_scorers, tiny_vlms

Change = Callable[[Path], None]

TRIAL = Trial(37, 53, torch.float32, gradient=True)
BUILD = {
    "llava": tiny.llava,
    "llava_next": tiny_families.llava_next,
    "qwen2_5_vl": tiny_families.qwen2_5_vl,
    "qwen3_vl": tiny_families.qwen3_vl,
    "llava_onevision": tiny_vlms.llava_onevision,
    "internvl": tiny_vlms.internvl,
    "gemma3": tiny_vlms.gemma3,
    "clip": tiny_families.clip,
    "siglip": tiny_families.siglip,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = tmp_path_factory.mktemp("processors")
    return {name: build(made / name) for name, build in BUILD.items()}


def _edit(folder: Path, file: str, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / file
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def _without(file: str, *keys: str) -> Change:
    return lambda folder: _edit(folder, file, lambda content: [content.pop(key, None) for key in keys])


def _with(file: str, **values: object) -> Change:
    return lambda folder: _edit(folder, file, lambda content: content.update(values))


def _with_images(**values: object) -> Change:
    """Settings of the image processor inside ``processor_config.json``."""

    def change(folder: Path) -> None:
        _edit(folder, "processor_config.json", lambda content: content["image_processor"].update(values))

    return change


def _saved_in_2023(key: str) -> Change:
    """An image processor in a file of its own, under its former name, with sizes as numbers."""

    def change(folder: Path) -> None:
        settings = json.loads((folder / "processor_config.json").read_text())["image_processor"]
        del settings["image_processor_type"]
        settings |= {key: "CLIPFeatureExtractor", "size": 16, "crop_size": 16}
        (folder / "preprocessor_config.json").write_text(json.dumps(settings))
        (folder / "processor_config.json").unlink()

    return change


def _saved_in_2024(folder: Path) -> None:
    """The whole processor's chat template in a JSON file, and another one, for text alone, with the tokenizer."""
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    text_alone = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    _edit(folder, "tokenizer_config.json", lambda content: content.update(chat_template=text_alone))


COUNTS = ("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens")
FILLED: dict[str, tuple[str, Change]] = {
    "no patch size": ("llava", _without("processor_config.json", "patch_size")),
    "no settings but the class": ("llava", _without("processor_config.json", *COUNTS)),
    "one image token short": ("llava", _without("processor_config.json", "num_additional_image_tokens")),
    "another patch size than the model": ("llava", _with("processor_config.json", patch_size=4)),
    "no padding token": ("llava", _without("tokenizer_config.json", "pad_token")),
    "a tokenizer class of before": ("llava", _with("tokenizer_config.json", tokenizer_class="LlamaTokenizerFast")),
    "a feature extractor": ("llava", _saved_in_2023("feature_extractor_type")),
    "a feature extractor as image processor": ("llava", _saved_in_2023("image_processor_type")),
    "tiles without patch size": ("llava_next", _without("processor_config.json", *COUNTS)),
    "tiles of other sizes": ("llava_next", _with_images(image_grid_pinpoints=[[64, 64]])),
    "tiles without a padding token": ("llava_next", _without("tokenizer_config.json", "pad_token")),
    "patches of the class's size": (
        "qwen2_5_vl", _without("preprocessor_config.json", "patch_size", "merge_size", "temporal_patch_size"),
    ),
    "patches of another size": ("qwen3_vl", _with("preprocessor_config.json", patch_size=14)),
    "tiles that are not the model's": (
        "llava_onevision", _with("preprocessor_config.json", image_grid_pinpoints=[[64, 64]]),
    ),
    "a chat template for text next to one for images": ("llava_onevision", _saved_in_2024),
    "an image processor that cuts no tiles": ("internvl", _with("preprocessor_config.json", crop_to_patches=False)),
    "crops besides the image": ("gemma3", _with_images(do_pan_and_scan=True)),
    "captions without a padding token": ("clip", _without("tokenizer_config.json", "pad_token")),
    "captions and a feature extractor": ("clip", _saved_in_2023("image_processor_type")),
}  # fmt: skip


def _score(folder: Path) -> float:
    scorer = load_scorer(find_scorer(ScorerConfig(model=str(folder))), "cpu", TRIAL)
    images = torch.rand(1, 3, 37, 53, generator=torch.Generator().manual_seed(0))
    return float(scorer.log_scores(["a cat and a dog"], images).exp())


@pytest.mark.parametrize("case", FILLED)
def test_what_a_processor_lacks_is_taken_from_the_model(case: str, folders: dict[str, Path], tmp_path: Path) -> None:
    family, change = FILLED[case]
    copy = Path(shutil.copytree(folders[family], tmp_path / "copy"))
    change(copy)
    assert _score(copy) == pytest.approx(_score(folders[family]), abs=1e-7)


REFUSED: dict[str, tuple[str, Change, str]] = {
    "images of another size": (
        "llava", _with_images(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}),
        "cannot score an image (Input image size (24*24) doesn't match model (16*16)); its config.json",
    ),
    "an image token of the model's own": (
        "llava", _with("config.json", image_token_index=3), "cannot score an image (Image features and image tokens",
    ),
    "no mean": ("llava_next", _with_images(image_mean=None), "cannot score an image (`image_mean`"),
    "a filter without a gradient": ("clip", _with_images(resample=0), "has resample 0, which is not supported; use"),
    "a filter that does not exist": ("siglip", _with_images(resample=99), "cannot score an image (Unknown resampling"),
    "no padding token where padding is read": (
        "siglip", _without("tokenizer_config.json", "pad_token"), "cannot score an image (Asking to pad",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_one_sentence_when_it_is_loaded(
    case: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    family, change, named = REFUSED[case]
    copy = Path(shutil.copytree(folders[family], tmp_path / "copy"))
    change(copy)
    with pytest.raises(UserError) as refused:
        load_scorer(find_scorer(ScorerConfig(model=str(copy))), "cpu", TRIAL)
    with pytest.raises(UserError) as refused_judge:
        load_judge(find_judge(JudgeConfig(name="eye", model=str(copy)), ScorerConfig()), "cpu", TRIAL)
    for field, message in (("scorers", str(refused.value)), ("judges.eye", str(refused_judge.value))):
        assert message.startswith(f"{field}.model: ")
        assert named in message
        assert "\n" not in message


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_a_similarity_model_that_lacks_weights_is_refused(
    family: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    copy = Path(shutil.copytree(folders[family], tmp_path / "copy"))
    weights = load_file(copy / "model.safetensors")
    del weights["logit_scale"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"1 missing, first logit_scale"):
        load_scorer(find_scorer(ScorerConfig(model=str(copy))), "cpu")


def test_scores_that_are_not_numbers_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    copy = Path(shutil.copytree(folders["clip"], tmp_path / "copy"))
    weights = load_file(copy / "model.safetensors")
    weights["visual_projection.weight"] *= float("nan")
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"^scorers\.model: .* a score that is not a number, in float32"):
        load_scorer(find_scorer(ScorerConfig(model=str(copy))), "cpu", TRIAL)


def _in_shards(folder: Path) -> list[Path]:
    """Store the weights as two files and an index, as those of large models are."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    weight_map: dict[str, str] = {}
    for number, taken in enumerate((names[::2], names[1::2]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: weights[name] for name in taken}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(taken, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return sorted(folder.glob("model-*.safetensors"))


def test_a_missing_shard_is_found_before_anything_is_loaded(folders: dict[str, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folders["llava"], tmp_path / "copy"))
    shards = _in_shards(copy)
    assert _score(copy) == pytest.approx(_score(folders["llava"]), abs=1e-7)
    shards[1].write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n")
    with pytest.raises(UserError, match=r"^scorers\.model: .* model-00002-of-00002\.safetensors is a Git LFS pointer"):
        find_scorer(ScorerConfig(model=str(copy)))
    shards[1].unlink()
    with pytest.raises(
        UserError, match=r"^judges\.eye\.model: .* names 2 files, of which 1 are missing, first model-0"
    ):
        find_judge(JudgeConfig(name="eye", model=str(copy)), ScorerConfig())


def _as_sentencepiece(tokenizer: Any) -> bytes:
    """A tokenizer of pieces and scores in the form in which it was trained."""
    from transformers.convert_slow_tokenizer import import_protobuf

    model = import_protobuf().ModelProto()
    kinds = {"<unk>": 2, "<pad>": 3, "</s>": 3}
    for piece, score in json.loads(tokenizer.backend_tokenizer.to_str())["model"]["vocab"]:
        model.pieces.add(piece=piece, score=score, type=kinds.get(piece, 1))
    settings = model.trainer_spec
    settings.model_type, settings.pad_id, settings.eos_id, settings.unk_id, settings.bos_id = 1, 0, 1, 2, -1
    data: bytes = model.SerializeToString()
    return data


def test_a_tokenizer_that_is_stored_as_sentencepiece_alone_is_read(tiny_clip_flant5: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_clip_flant5, tmp_path / "copy"))
    (copy / "tokenizer.json").unlink()
    (copy / "spiece.model").write_bytes(_as_sentencepiece(tiny_scorers.t5_tokenizer()))
    assert _score(copy) == pytest.approx(_score(tiny_clip_flant5), abs=1e-7)
