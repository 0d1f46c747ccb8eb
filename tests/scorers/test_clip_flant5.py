"""CLIP-FlanT5: the published layout, and what of its config is followed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from noisesmith.pipeline.config import ScorerConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.scorers import find_scorer, load_scorer
from tests import tiny_scorers
from tests.tiny_scorers import EMBEDDING, EMBEDDING_ALIASES, write_weights

PROMPTS = ["a cat and a red car", "a dog"]


def _scores(folder: Path, height: int = 20, width: int = 31, **options: object) -> torch.Tensor:
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    return load_scorer(find_scorer(ScorerConfig(model=str(folder), **options)), "cpu").log_scores(PROMPTS, images)


@pytest.mark.parametrize("kept", [EMBEDDING, *EMBEDDING_ALIASES[1:]])
def test_one_name_of_the_shared_embedding_is_enough(tmp_path: Path, tiny_clip_flant5: Path, kept: str) -> None:
    """Safetensors store a shared tensor once, under whichever name the tool that converted them chose."""
    folder = tiny_scorers.clip_flant5(tmp_path / "once")
    weights = load_file(folder / "model.safetensors")
    dropped = {EMBEDDING, *EMBEDDING_ALIASES} - {kept}
    write_weights(folder, {name: value for name, value in weights.items() if name not in dropped})
    assert torch.equal(_scores(folder), _scores(tiny_clip_flant5))


def test_an_absent_embedding_is_not_taken_from_the_output_layer(tmp_path: Path) -> None:
    folder = tiny_scorers.clip_flant5(tmp_path / "none")
    weights = load_file(folder / "model.safetensors")
    names = {EMBEDDING, *EMBEDDING_ALIASES}
    write_weights(folder, {name: value for name, value in weights.items() if name not in names})
    with pytest.raises(UserError, match=r"missing, first decoder\.embed_tokens\.weight, encoder\.embed_tokens"):
        load_scorer(find_scorer(ScorerConfig(model=str(folder))), "cpu")


def test_a_wrong_layout_names_the_first_keys_that_differ(tmp_path: Path) -> None:
    folder = tiny_scorers.clip_flant5(tmp_path / "wrong")
    weights = load_file(folder / "model.safetensors")
    write_weights(folder, {name.replace("mm_projector", "projector"): value for name, value in weights.items()})
    with pytest.raises(UserError) as caught:
        load_scorer(find_scorer(ScorerConfig(model=str(folder))), "cpu")
    message = str(caught.value)
    assert "CLIPT5ForConditionalGeneration" in message
    assert "4 missing, first mm_projector.0.bias, mm_projector.0.weight" in message
    assert "4 unexpected, first projector.0.bias, projector.0.weight" in message


def test_what_older_libraries_saved_beside_the_weights_is_passed_over(tmp_path: Path, tiny_clip_flant5: Path) -> None:
    folder = tiny_scorers.clip_flant5(tmp_path / "old")
    weights = load_file(folder / "model.safetensors")
    weights["vision_tower.vision_tower.vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    write_weights(folder, weights)
    assert torch.equal(_scores(folder), _scores(tiny_clip_flant5))


def test_the_checkpoint_says_whether_images_are_padded_to_a_square(tmp_path: Path, tiny_clip_flant5: Path) -> None:
    cropped = tiny_scorers.clip_flant5(tmp_path / "cropped", image_aspect_ratio="square")
    assert not torch.allclose(_scores(cropped), _scores(tiny_clip_flant5))
    assert torch.equal(_scores(cropped, 24, 24), _scores(tiny_clip_flant5, 24, 24))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mm_projector_type": "linear"}, "mm_projector_type"),
        ({"mm_vision_select_feature": "cls_patch"}, "mm_vision_select_feature"),
        ({"image_aspect_ratio": "anyres"}, "image_aspect_ratio"),
        ({"mm_vision_tower": None}, "mm_vision_tower"),
        ({"mm_vision_tower": "openai/clip-vit-large-patch14-336"}, "hf download openai/clip-vit-large-patch14-336"),
    ],
)
def test_what_is_not_supported_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = tiny_scorers.clip_flant5(tmp_path / "other", **changes)
    with pytest.raises(UserError, match=message):
        load_scorer(find_scorer(ScorerConfig(model=str(folder))), "cpu")


def test_float16_is_refused(tiny_clip_flant5: Path) -> None:
    with pytest.raises(UserError, match=r"scorers\.dtype: .*float16"):
        load_scorer(find_scorer(ScorerConfig(model=str(tiny_clip_flant5), dtype="float16")), "cpu")


def test_bfloat16_is_close(tiny_clip_flant5: Path) -> None:
    exact, close = (_scores(tiny_clip_flant5, dtype=dtype).exp() for dtype in ("float32", "bfloat16"))
    assert torch.allclose(exact, close, rtol=0.1)
