"""A broken model is the user's to repair and becomes a sentence; a bug of ours passes as what it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from noisesmith.pipeline.config import GeneratorConfig, JudgeConfig, ScorerConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.generators import find_generator, load_decoder, load_generator
from noisesmith.pipeline.models.loading import explained
from noisesmith.pipeline.models.locate import ModelSource, licence
from noisesmith.pipeline.scorers import find_judge, find_scorer, load_judge, load_scorer
from noisesmith.pipeline.scorers.llava import Llava

BUGS = [TypeError, AttributeError, NameError, KeyError, ValueError, RuntimeError, AssertionError, ZeroDivisionError]


def _bug(kind: type[Exception]) -> Callable[..., Any]:
    """A function with a bug. It raises as a module of ours does: these tests are not in the package."""
    namespace: dict[str, Any] = {"__name__": "noisesmith.pipeline.generators.planted", "kind": kind}
    exec("def planted(*args, **kwargs):\n    raise kind('planted')", namespace)
    planted: Callable[..., Any] = namespace["planted"]
    return planted


@pytest.mark.parametrize("kind", BUGS)
def test_a_bug_in_an_adapter_does_not_become_a_users_mistake(
    kind: type[Exception], tiny_sd: Path, tiny_llava: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = find_generator(GeneratorConfig(model=str(tiny_sd)))
    scorer = find_scorer(ScorerConfig(model=str(tiny_llava)))
    monkeypatch.setattr(ModelSource, "load_options", _bug(kind))
    with pytest.raises(kind, match="planted"):
        load_generator(generator, "cpu")
    with pytest.raises(kind, match="planted"):
        load_decoder(generator, "cpu")
    monkeypatch.setattr(Llava, "load_model", _bug(kind))
    with pytest.raises(kind, match="planted"):
        load_scorer(scorer, "cpu")


@pytest.mark.parametrize("kind", BUGS)
def test_a_bug_in_the_check_of_a_sampler_does_not_become_a_users_mistake(
    kind: type[Exception], tiny_sd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("noisesmith.pipeline.generators.samplers.sampler_gain", _bug(kind))
    with pytest.raises(kind, match="planted"):
        find_generator(GeneratorConfig(model=str(tiny_sd), scheduler="pndm"))  # ddim's gain is known without a sampler


def test_a_wrong_call_of_a_library_is_our_bug() -> None:
    namespace: dict[str, Any] = {"__name__": "noisesmith.pipeline.generators.planted", "torch": torch}
    exec("def call():\n    torch.nn.Linear()", namespace)
    with pytest.raises(TypeError), explained("generators.model: 'x' cannot be loaded"):
        namespace["call"]()


def _unreadable(folder: Path, file: str) -> None:
    (folder / file).write_bytes(b"\x80 no model")


def _changed(folder: Path, file: str, **values: object) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


GENERATOR_DAMAGE: dict[str, Callable[[Path], None]] = {
    "weights that are no safetensors": lambda folder: _unreadable(folder, "unet/diffusion_pytorch_model.safetensors"),
    "sizes that do not fit the weights": lambda folder: _changed(
        folder, "text_encoder/config.json", intermediate_size=48
    ),
    "a config that is not JSON": lambda folder: _unreadable(folder, "text_encoder/config.json"),
    "a tokenizer that is not JSON": lambda folder: _unreadable(folder, "tokenizer/tokenizer.json"),
    "a tokenizer without a model": lambda folder: _changed(folder, "tokenizer/tokenizer.json", model={"type": "none"}),
    "a value of the wrong type": lambda folder: _changed(folder, "unet/config.json", layers_per_block="two"),
    "an unknown activation": lambda folder: _changed(folder, "unet/config.json", act_fn="none"),
    "an unknown block": lambda folder: _changed(folder, "unet/config.json", down_block_types=["none", "none"]),
    "an unknown dtype": lambda folder: _changed(folder, "text_encoder/config.json", dtype="a/b/c"),
    "a size of zero": lambda folder: _changed(folder, "unet/config.json", norm_num_groups=0),
}


@pytest.mark.parametrize("damage", GENERATOR_DAMAGE)
def test_a_broken_generator_becomes_a_sentence_that_keeps_its_cause(damage: str, tiny_sd: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_sd, tmp_path / "model"))
    GENERATOR_DAMAGE[damage](folder)
    sentence = r"^generators\.model: .* cannot be (loaded \(.*\)|read \(.*\); save the model again)$"
    with pytest.raises(UserError, match=sentence) as refused:
        load_generator(find_generator(GeneratorConfig(model=str(folder))), "cpu")
    assert isinstance(refused.value.__cause__, Exception)


TEXT_DAMAGE: dict[str, Callable[[Path], None]] = {
    "more tokens than positions": lambda folder: _changed(
        folder, "tokenizer/tokenizer_config.json", model_max_length=99
    ),
    "no token to pad with": lambda folder: _changed(folder, "tokenizer/tokenizer_config.json", pad_token=None),
    "no length": lambda folder: _changed(folder, "tokenizer/tokenizer_config.json", model_max_length=10**30),
    "more than fits into memory": lambda folder: _changed(
        folder, "tokenizer/tokenizer_config.json", model_max_length=2**31
    ),
}


@pytest.mark.parametrize("damage", TEXT_DAMAGE)
def test_a_tokenizer_that_does_not_fit_its_text_encoder_fails_when_it_is_loaded(
    damage: str, tiny_sd: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_sd, tmp_path / "model"))
    TEXT_DAMAGE[damage](folder)
    with pytest.raises(UserError, match=r"^generators\.model: .* cannot encode a prompt \(.*\); its tokenizers' files"):
        load_generator(find_generator(GeneratorConfig(model=str(folder))), "cpu")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_weights_that_are_missing_are_refused_and_not_drawn_at_random(part: str, tiny_sd: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_sd, tmp_path / "model"))
    (file,) = (folder / part).glob("*.safetensors")
    weights_of_part = load_file(file)
    dropped = sorted(name for name in weights_of_part if name.endswith("weight"))[0]
    del weights_of_part[dropped]
    save_file(weights_of_part, file, {"format": "pt"})
    found = find_generator(GeneratorConfig(model=str(folder)))
    with pytest.raises(UserError, match=rf"cannot be loaded \(1 weights of its {part} are missing, first "):
        load_generator(found, "cpu")
    if part == "vae":
        with pytest.raises(UserError, match=r"the vae of .* cannot be loaded \(1 weights of its vae are missing"):
            load_decoder(found, "cpu")


def test_files_that_describe_half_a_processor_are_refused(tiny_llava: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_llava, tmp_path / "model"))
    _changed(folder, "processor_config.json", processor_class="SiglipImageProcessor")
    for name in ("tokenizer_config.json", "preprocessor_config.json"):
        if (folder / name).is_file():
            _changed(folder, name, processor_class="SiglipImageProcessor")
    with pytest.raises(UserError, match=r"^scorers\.model: .* cannot be loaded \(its processor's files describe a "):
        load_scorer(find_scorer(ScorerConfig(model=str(folder))), "cpu")


def test_parts_that_no_image_needs_are_not_loaded_whatever_class_they_name(tiny_sd: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_sd, tmp_path / "model"))
    _changed(folder, "model_index.json", feature_extractor=["transformers", "CLIPFeatureExtractor"])
    load_generator(find_generator(GeneratorConfig(model=str(folder))), "cpu")


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "processor_config.json"])
def test_a_broken_scorer_becomes_a_sentence_that_keeps_its_cause(file: str, tiny_llava: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_llava, tmp_path / "model"))
    _unreadable(folder, file)
    with pytest.raises(UserError, match=r"^scorers\.model: .* cannot be loaded \(.*\)$") as refused:
        load_scorer(find_scorer(ScorerConfig(model=str(folder))), "cpu")
    assert isinstance(refused.value.__cause__, Exception)


def test_a_broken_vae_and_a_broken_judge_become_sentences(tiny_sd: Path, tmp_path: Path) -> None:
    from noisesmith.pipeline.embedded import weights

    folder = Path(shutil.copytree(tiny_sd, tmp_path / "model"))
    _changed(folder, "vae/config.json", norm_num_groups="none")
    with pytest.raises(UserError, match=r"^generators\.model: the vae of .* cannot be loaded \("):
        load_decoder(find_generator(GeneratorConfig(model=str(folder))), "cpu")
    folder = Path(shutil.copytree(weights("judge"), tmp_path / "judge"))
    _changed(folder, "config.json", width="wide")
    with pytest.raises(UserError, match=r"^judges\.eye\.model: .* cannot be loaded \("):
        load_judge(find_judge(JudgeConfig(name="eye", model=str(folder)), ScorerConfig()), "cpu")


def test_a_users_mistake_passes_through_unchanged() -> None:
    with pytest.raises(UserError, match=r"^plain$"), explained("scorers.model: 'x' cannot be loaded"):
        raise UserError("plain")


def test_a_panic_of_a_library_in_rust_names_the_model(tiny_sd: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_sd, tmp_path / "model"))
    padding: dict[str, Any] = {"strategy": {"Fixed": 2**62}, "direction": "Right", "pad_to_multiple_of": None}
    padding |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"}
    _changed(folder, "tokenizer/tokenizer.json", padding=padding)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer/tokenizer.json"))
    with (
        pytest.raises(UserError, match=r"^generators\.model: 'x' cannot be loaded \(capacity overflow\)$"),
        explained("generators.model: 'x' cannot be loaded"),
    ):
        tokenizer.encode_batch(["a cat"])


def test_exhausted_memory_names_the_model() -> None:
    with (
        pytest.raises(UserError, match=r"cannot be loaded \(.*memory"),
        explained("scorers.model: 'x' cannot be loaded"),
    ):
        torch.empty(2**60)


@pytest.mark.parametrize(
    ("card", "stated"),
    [
        ("---\nlicense: mit\n---\n", "mit"),
        ("---\nlicense: other\nlicense_name: own\n---\n", "own"),
        ("---\nlicense: [a\n---\n", None),
        ("---\n- a list\n---\n", None),
        ("no metadata", None),
    ],
)
def test_a_licence_is_what_a_card_states_or_unknown(card: str, stated: str | None, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(card)
    assert licence(str(tmp_path), None) == stated
    assert licence(str(tmp_path / "none"), None) is None
