"""What does not fit a model ends before it is loaded, with one sentence that names the field and the remedy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from noisesmith.pipeline.config import GeneratorConfig, RunConfig, load_config
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.generators import find_generator, load_decoder, load_generator, lora
from noisesmith.pipeline.models.weights import PICKLED
from tests.tiny_generators import single_file

Case = tuple[str, dict[str, Any], str]

OPTIONS: dict[str, Case] = {
    "T5 dropped from a model without": ("sdxl", {"drop_t5": True}, "generators.drop_t5: "),
    "T5 tokens for a model without": ("sd1", {"max_sequence_length": 128}, "generators.max_sequence_length: "),
    "sliced attention of a transformer": ("sd3", {"attention": "sliced"}, "generators.attention: sliced is for U-Nets"),
    "offload without a GPU": ("sdxl", {"cpu_offload": True}, "generators.cpu_offload: "),
    "negative prompt without guidance": (
        "sdxl", {"negative_prompt": "blur", "guidance_scale": 0.0}, "generators.negative_prompt: has no effect",
    ),
    "config next to a folder": ("sd1", {"config": "somewhere"}, "generators.config: only a single-file model"),
    "variant that is not there": ("sd1", {"variant": "fp16"}, "generators.variant: text_encoder of"),
    "height off the grid of eight": ("sdxl", {"height": 36}, "generators.height: 36 is not a multiple of 8"),
    "width off the grid of patches": ("sd3", {"width": 18}, "generators.width: 18 is not a multiple of 4"),
    "beyond the positions": ("sd3", {"height": 52}, "generators.height: 52 is beyond the 48 pixels"),
    "noise sampler for a flow": ("sd3", {"scheduler": "euler"}, "use flow_euler"),
    "flow sampler for noise": ("sdxl", {"scheduler": "flow_euler"}, "use ddim, pndm, dpmsolver++ or euler"),
    "random consistency sampling": ("sdxl", {"scheduler": "lcm", "steps": 4}, "generators.steps: lcm draws"),
    "spacing of a flow": ("sd3", {"timestep_spacing": "trailing"}, "generators.timestep_spacing: "),
    "spacing of a consistency sampler": (
        "sd1", {"scheduler": "lcm", "steps": 1, "timestep_spacing": "leading"}, "generators.timestep_spacing: lcm",
    ),
    "LoRA that is not there": ("sd1", {"lora": [{"path": "no.safetensors"}]}, "generators.lora.0.path: no file"),
    "pickled LoRA": ("sd1", {"lora": [{"path": "no.bin"}]}, "generators.lora.0.path: 'no.bin' is no .safetensors"),
}  # fmt: skip


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading any model fails the test."""
    from diffusers import DiffusionPipeline, ModelMixin

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    for owner in (DiffusionPipeline, ModelMixin):
        monkeypatch.setattr(owner, "from_pretrained", refuse)


def _refusal(**options: Any) -> str:
    with pytest.raises(UserError) as refused:
        find_generator(GeneratorConfig(**options))
    message = str(refused.value)
    assert "\n" not in message
    return message


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("case", list(OPTIONS))
def test_an_option_that_does_not_fit(case: str, families: Mapping[str, Path]) -> None:
    family, options, named = OPTIONS[case]
    sampler = {"scheduler": "flow_euler"} if family == "sd3" else {}
    assert named in _refusal(**({"model": str(families[family])} | sampler | options))


def _edit(filename: str, **values: Any) -> Callable[[Path], None]:
    def change(copy: Path) -> None:
        content = json.loads((copy / filename).read_text()) | values
        (copy / filename).write_text(json.dumps(content))

    return change


def _rename_weights(part: str, name: str | None) -> Callable[[Path], None]:
    def change(copy: Path) -> None:
        for path in (copy / part).glob("*.safetensors"):
            path.unlink() if name is None else path.rename(path.with_name(name))

    return change


def _shard(part: str, *, lose: str, end: str = "") -> Callable[[Path], None]:
    """Two files and an index, as large models are stored; files whose names hold ``lose`` are missing."""

    def change(copy: Path) -> None:
        (weights,) = (copy / part).glob("*.safetensors")
        tensors = load_file(weights)
        weights.unlink()
        names = sorted(tensors)
        weight_map: dict[str, str] = {}
        for number, taken in enumerate((names[::2], names[1::2]), 1):
            file = f"{weights.stem}-0000{number}-of-00002.safetensors"
            save_file({name: tensors[name] for name in taken}, copy / part / file, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(taken, file)
        index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
        (copy / part / f"{weights.name}.index.json").write_text(json.dumps(index) + end)
        for path in (copy / part).glob(f"*{lose}*"):
            path.unlink()

    return change


def _pointer(file: str) -> Callable[[Path], object]:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n"
    return lambda copy: (copy / file).write_text(pointer)


MODELS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "a shard is missing": (
        "sdxl", _shard("text_encoder", lose="00002-of"),
        "is incomplete: model.safetensors.index.json names 2 files, of which 1 are missing, first "
        "model-00002-of-00002.safetensors; fetch or save the model again",
    ),
    "the denoiser's shard is missing": ("sd3", _shard("transformer", lose="00001-of"), "first diffusion_pytorch_model"),
    "the index of shards is missing": ("sd1", _shard("unet", lose="index"), "is a shard, and its index is missing"),
    "the index of shards is damaged": ("sd1", _shard("unet", lose="none", end="}"), "is no index of weights"),
    "weights in Git LFS": (
        "sd1", _pointer("vae/diffusion_pytorch_model.safetensors"), "is a Git LFS pointer and no weights (`git lfs",
    ),
    "a class that is no name": (
        "sd1", _edit("model_index.json", unet=["diffusers", ["UNet2DConditionModel"]]), "names no class for unet; save",
    ),
    "code of its own": ("sd1", _edit("model_index.json", unet=["my_unet", "MyUNet"]), "MyUNet of my_unet"),
    "no weights": ("sdxl", _rename_weights("text_encoder_2", None), "text_encoder_2 of"),
    "half-precision files only": (
        "sd1", _rename_weights("unet", "diffusion_pytorch_model.fp16.safetensors"), "generators.variant: unet of",
    ),
    "pickles only": ("sd3", _rename_weights("transformer", "model.bin"), "generators.allow_pickle: transformer"),
    "inpainting model": ("sd1", _edit("unet/config.json", in_channels=9), "edits or inpaints"),
    "no size of its own": ("sd1", _edit("unet/config.json", sample_size=None), "generators.height: "),
    "predicts the image": (
        "sd1", _edit("scheduler/scheduler_config.json", prediction_type="sample"), "predicts sample",
    ),
    "distilled guidance": (
        "sdxl", _edit("unet/config.json", time_cond_proj_dim=16), "generators.negative_prompt: ",
    ),
    "another pipeline": ("sd1", _edit("model_index.json", _class_name="WanPipeline"), "is a WanPipeline"),
}  # fmt: skip


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("case", list(MODELS))
def test_a_model_that_does_not_fit(case: str, families: Mapping[str, Path], tmp_path: Path) -> None:
    family, change, named = MODELS[case]
    copy = tmp_path / "copy"
    shutil.copytree(families[family], copy)
    change(copy)
    options = {"scheduler": "flow_euler"} if family == "sd3" else {}
    options |= {"negative_prompt": "blur"} if case == "distilled guidance" else {}
    assert named in _refusal(model=str(copy), **options)


def test_shards_that_are_all_there_are_loaded(families: Mapping[str, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(families["sd1"], tmp_path / "copy"))
    for part in ("unet", "text_encoder"):
        _shard(part, lose="none")(copy)
    load_generator(find_generator(GeneratorConfig(model=str(copy))), "cpu")


ADAPTERS: dict[str, tuple[list[str], str]] = {
    "LoHa": (["lora_unet_down.hada_w1_a", "lora_unet_down.alpha"], "is a LoHa and no LoRA"),
    "LoKr": (["lora_unet_down.lokr_w1"], "is a LoKr and no LoRA"),
    "DoRA": (["lora_unet_down.lora_up.weight", "lora_unet_down.dora_scale"], "is a DoRA and no LoRA"),
    "OFT": (["oft_unet_down.oft_blocks"], "is a OFT and no LoRA"),
    "a whole model": (["model.diffusion_model.out.0.weight"], "is a whole model and no LoRA"),
    "something else": (["down.weight"], "is no LoRA (it has the tensor down.weight)"),
    "nothing": ([], "is no LoRA (it has no tensors)"),
}


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("case", ADAPTERS)
def test_an_adapter_of_another_kind_is_named(case: str, families: Mapping[str, Path], tmp_path: Path) -> None:
    names, named = ADAPTERS[case]
    path = tmp_path / "style.safetensors"
    save_file({name: torch.zeros(1) for name in names}, path)
    message = _refusal(model=str(families["sd1"]), lora=[{"path": str(path)}])
    assert message.startswith("generators.lora.0.path: ")
    assert named in message


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "cannot be read"),
        (b"<!doctype html><html>", "cannot be read"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
    ],
)
def test_a_lora_that_is_no_safetensors(
    content: bytes, named: str, families: Mapping[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "style.safetensors"
    path.write_bytes(content)
    assert named in _refusal(model=str(families["sd1"]), lora=[{"path": str(path)}])


@pytest.mark.parametrize("length", [255, 200])
def test_a_single_file_may_have_the_longest_name_that_the_system_takes(
    length: int, families: Mapping[str, Path], tmp_path: Path
) -> None:
    name = "é" * 20
    name += "x" * (length - len(f"{name}.safetensors".encode()))
    path = tmp_path / f"{name}.safetensors"
    single_file(families["sd1"], path)
    config = GeneratorConfig(model=str(path), config=str(families["sd1"]))
    generator = load_generator(find_generator(config), "cpu")
    assert generator.id == str(path)
    load_decoder(find_generator(config), "cpu")


FILES: dict[str, tuple[str, dict[str, Any], str]] = {
    "a file that is not there": ("no.safetensors", {"config": "here"}, "generators.config: only a single-file"),
    "a missing file by its name": ("models/no.safetensors", {}, "generators.model: no file 'models/no.safetensors'"),
    "a file without its configuration": ("m.safetensors", {}, "generators.config: "),
    "a configuration that is not there": ("m.safetensors", {"config": "/no/where"}, "generators.config: no folder"),
    "a configuration from the Hub, offline": (
        "m.safetensors", {"config": "some/base"}, "`hf download some/base`",
    ),
    "a pickle": ("m.ckpt", {}, "generators.allow_pickle: true"),
    "an allowed pickle without its configuration": ("m.ckpt", {"allow_pickle": True}, "generators.config: "),
    "no weights at all": ("m.txt", {}, "generators.model: "),
    "a variant of a file": ("m.safetensors", {"variant": "fp16", "config": "x/y"}, "generators.variant: "),
}  # fmt: skip


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("case", list(FILES))
def test_a_single_file_that_does_not_do(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, options, named = FILES[case]
    monkeypatch.chdir(tmp_path)
    for name in ("m.safetensors", "m.ckpt", "m.txt"):
        (tmp_path / name).write_bytes(b"")
    assert named in _refusal(model=model, **options)


@pytest.mark.usefixtures("no_model")
def test_a_hub_model_that_cannot_be_had_says_which_file_and_how_to_fetch_it() -> None:
    message = _refusal(
        model="stabilityai/stable-diffusion-xl-base-1.0", revision="462165984030d82259a11f4367a4eed129e94a7b"
    )
    assert "its model_index.json is neither in the Hub's cache nor available" in message
    assert (
        "`hf download stabilityai/stable-diffusion-xl-base-1.0 --revision 462165984030d82259a11f4367a4eed129e94a7b`"
        in message
    )


@pytest.mark.usefixtures("no_model")
def test_a_hub_model_half_in_the_cache_says_which_weights_are_missing(
    families: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Hub's cache has a snapshot without the transformer's weights, and the Hub is off limits."""
    import huggingface_hub

    snapshot = tmp_path / "models--some--model" / "snapshots" / "abc"
    shutil.copytree(families["sd3"], snapshot)
    next((snapshot / "transformer").glob("*.safetensors")).unlink()
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda _, filename, revision: str(snapshot / filename))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    message = _refusal(model="some/model", scheduler="flow_euler")
    assert "transformer of 'some/model' has no weight file" in message
    assert "`hf download some/model`" in message


@pytest.mark.usefixtures("no_model")
def test_a_lora_without_peft(families: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "style.safetensors").write_bytes(b"")
    monkeypatch.setattr(lora, "find_spec", lambda name: None)
    message = _refusal(model=str(families["sd1"]), lora=[{"path": str(tmp_path / "style.safetensors")}])
    assert "pip install peft" in message


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("scheduler=euler_a", "euler_a draws fresh noise at every step"),
        ("scheduler=ddpm", "ddpm draws fresh noise at every step"),
        ("scheduler=tcd", "tcd draws fresh noise at every step"),
        ("scheduler=heun", "generators.scheduler: must be 'ddim'"),
        ("safety_checker=true", "generators.safety_checker: a blacked-out image"),
        ("attention=xformers", "generators.attention: must be 'sdpa' or 'sliced'"),
        ("max_sequence_length=513", "generators.max_sequence_length: "),
        ("variant=../fp16", "generators.variant: "),
        ("lora=[{scale: 2}]", "generators.lora.0.path: is required"),
        ("lora=[{path: a.safetensors, weight: 2}]", "generators.lora.0.weight: unknown key"),
    ],
)
def test_a_value_that_no_model_takes(override: str, named: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("corpus: {source: embedded/simple, size: 3}\n")
    with pytest.raises(UserError) as refused:
        load_config(path, [f"generators.{override}"])
    assert named in str(refused.value)


@pytest.mark.parametrize(
    ("options", "operational"),
    [
        ({"attention": "sliced"}, True),
        ({"vae_slicing": True}, True),
        ({"compile": True}, True),
        ({"cpu_offload": True}, True),
        ({"vae_tiling": True}, False),
        ({"variant": "fp16"}, False),
        ({"timestep_spacing": "trailing"}, False),
        ({"drop_t5": True}, False),
        ({"max_sequence_length": 77}, False),
        ({"lora": [{"path": "a.safetensors"}]}, False),
        ({"config": "some/base"}, False),
        ({"allow_pickle": True}, False),
    ],
)
def test_only_what_leaves_results_alone_may_change_on_resume(options: dict[str, Any], operational: bool) -> None:
    plain, changed = (
        RunConfig.model_validate({"corpus": {"source": "embedded/simple", "size": 3}, "generators": generators})
        for generators in ({}, options)
    )
    assert (plain.digest() == changed.digest()) is operational


def test_pickles_count_in_the_revision_once_they_may_be_loaded(families: Mapping[str, Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(families["sd1"], copy)
    configs = [GeneratorConfig(model=str(copy), allow_pickle=allowed) for allowed in (False, True)]
    before = [find_generator(config).source.resolved_revision() for config in configs]
    (copy / "unet" / f"extra{PICKLED[0]}").write_bytes(b"x")
    after = [find_generator(config).source.resolved_revision() for config in configs]
    assert (before[0] == after[0], before[1] == after[1]) == (True, False)
