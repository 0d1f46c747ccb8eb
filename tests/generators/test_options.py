"""Every way to load a model and every option, on tiny models: the same images to rounding, or the change promised."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor2_0, SlicedAttnProcessor

from noisesmith.pipeline.config import AttendAndExciteConfig, GeneratorConfig, InitNoConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.generators import Generator, find_generator, load_decoder, load_generator
from noisesmith.pipeline.models.locate import licence
from noisesmith.pipeline.noise import NoiseKey
from noisesmith.pipeline.optimizers.attend_and_excite import AttendAndExcite
from noisesmith.pipeline.optimizers.base import Proposal, Request
from noisesmith.pipeline.optimizers.initno import InitNo
from tests.tiny_generators import single_file
from tests.tiny_pipelines import EVERY

PROMPTS = ["a cat and a red car", "a dog"]


def _sample(config: GeneratorConfig) -> torch.Tensor:
    generator = load_generator(find_generator(config), "cpu")
    return generator.sample(PROMPTS, _noise(generator), 3)


def _noise(generator: Generator) -> torch.Tensor:
    return torch.randn(2, *generator.spec.shape, generator=torch.Generator().manual_seed(0))


def _config(folder: Path, **options: Any) -> GeneratorConfig:
    return GeneratorConfig(**({"model": str(folder), "steps": 3, "guidance_scale": 3.0} | options))


def _difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max())


@pytest.fixture(scope="module")
def plain(families: Mapping[str, Path]) -> torch.Tensor:
    """z_0 of ``sd1`` without any option."""
    return _sample(_config(families["sd1"]))


def test_a_single_file_equals_the_folder_it_came_from(
    families: Mapping[str, Path], plain: torch.Tensor, tmp_path: Path
) -> None:
    """The library's converter reads the original code's names."""
    file = single_file(families["sd1"], tmp_path / "model.safetensors")
    config = _config(file, config=str(families["sd1"]))
    source = find_generator(config).source
    assert (source.id, source.class_name) == (str(file), "StableDiffusionPipeline")
    assert _difference(_sample(config), plain) < 1e-6
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)) * 0.2
    alone = load_decoder(find_generator(config), "cpu")
    whole = load_decoder(find_generator(_config(families["sd1"])), "cpu")
    assert _difference(alone(latents), whole(latents)) < 1e-6
    revision = source.resolved_revision()
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert find_generator(config).source.resolved_revision() != revision


def test_a_variant_takes_its_own_files(families: Mapping[str, Path], plain: torch.Tensor, tmp_path: Path) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(families["sd1"], safety_checker=None, dtype=torch.float16)
    pipe.save_pretrained(tmp_path, variant="fp16")
    config = _config(tmp_path, variant="fp16")
    assert 0 < _difference(_sample(config), plain) < 0.1
    load_decoder(find_generator(config), "cpu")


def test_pickled_weights_load_only_when_allowed(
    families: Mapping[str, Path], plain: torch.Tensor, tmp_path: Path
) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(families["sd1"], safety_checker=None)
    pipe.unet.save_pretrained(tmp_path / "unet", safe_serialization=False)
    folder = tmp_path / "model"
    shutil.copytree(families["sd1"], folder)
    shutil.rmtree(folder / "unet")
    shutil.copytree(tmp_path / "unet", folder / "unet")
    with pytest.raises(UserError, match=r"generators\.allow_pickle: unet .* has only pickled weights"):
        find_generator(_config(folder))
    assert torch.equal(_sample(_config(folder, allow_pickle=True)), plain)


def test_sliced_attention_is_the_same_attention(families: Mapping[str, Path], plain: torch.Tensor) -> None:
    sliced: Any = load_generator(find_generator(_config(families["sd1"], attention="sliced")), "cpu")
    fused: Any = load_generator(find_generator(_config(families["sd1"], attention="sdpa")), "cpu")
    assert {type(one) for one in sliced.pipe.unet.attn_processors.values()} == {SlicedAttnProcessor}
    assert {type(one) for one in fused.pipe.unet.attn_processors.values()} == {AttnProcessor2_0}
    assert _difference(sliced.sample(PROMPTS, _noise(sliced), 3), plain) < 1e-4


def test_offloading_moves_parts_and_changes_nothing(families: Mapping[str, Path], plain: torch.Tensor) -> None:
    """Hooks as on a GPU, with the CPU in its place."""
    generator: Any = load_generator(find_generator(_config(families["sd1"], cpu_offload=True, num_gpus=1)), "cpu")
    assert generator.pipe.unet._hf_hook is not None
    assert torch.equal(generator.sample(PROMPTS, _noise(generator), 3), plain)


@pytest.mark.parametrize("method", [InitNo(InitNoConfig(steps=1)), AttendAndExcite(AttendAndExciteConfig())])
def test_methods_that_read_attention_work_where_an_offloaded_model_does(
    families: Mapping[str, Path], method: InitNo | AttendAndExcite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parts of the pipeline lie on ``meta``, as far as it says, and its hooks name the CPU, where they work."""
    keys = [NoiseKey(0, name, 0) for name in "ab"]
    requests = [Request(prompt, prompt.split()[1:2], key, 3) for prompt, key in zip(PROMPTS, keys, strict=True)]

    def run(**options: Any) -> torch.Tensor:
        generator: Any = load_generator(find_generator(_config(families["sd1"], **options)), "cpu")
        fresh = [Proposal(key.draw(0, generator.spec.shape)[None]) for key in keys]
        proposals = method.prepare(requests, fresh, generator)
        return method.denoise(requests, torch.stack([proposal.state[0] for proposal in proposals]), generator)[0]

    expected = run()
    monkeypatch.setattr(StableDiffusionPipeline, "device", torch.device("meta"))
    assert torch.equal(run(cpu_offload=True, num_gpus=1), expected)


@pytest.mark.slow
def test_compiling_changes_nothing_but_rounding(families: Mapping[str, Path]) -> None:
    options = {"scheduler": "flow_euler"}
    compiled: Any = load_generator(find_generator(_config(families["sd3"], compile=True, **options)), "cpu")
    assert compiled.pipe.transformer._compiled_call_impl is not None
    ours = compiled.sample(PROMPTS, _noise(compiled), 3)
    assert _difference(ours, _sample(_config(families["sd3"], **options))) < 1e-4


def test_slicing_decodes_the_same_images(families: Mapping[str, Path]) -> None:
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1)) * 0.2
    whole = load_decoder(find_generator(_config(families["sd1"])), "cpu")
    sliced = load_decoder(find_generator(_config(families["sd1"], vae_slicing=True)), "cpu")
    assert _difference(whole(latents), sliced(latents)) < 1e-6


def test_tiling_changes_large_images_only_and_differentiates(families: Mapping[str, Path]) -> None:
    whole = load_decoder(find_generator(_config(families["sd1"])), "cpu")
    tiled = load_decoder(find_generator(_config(families["sd1"], vae_tiling=True)), "cpu")
    whole.vae.double()
    tiled.vae.double()
    generator = torch.Generator().manual_seed(1)
    small, large = (torch.randn(1, 4, side, side, generator=generator).double() * 0.2 for side in (8, 16))
    assert torch.equal(whole(small), tiled(small))
    assert 0 < float((whole(large) - tiled(large)).abs().mean()) < 0.1

    weights = torch.randn(1, 3, 32, 32, generator=generator).double()
    latents = large.clone().requires_grad_()
    (analytic,) = torch.autograd.grad((tiled(latents) * weights).sum(), latents)
    delta = torch.randn(large.shape, generator=generator).double()
    with torch.no_grad():
        ahead, behind = ((tiled(large + step * delta) * weights).sum() for step in (1e-6, -1e-6))
    assert float((ahead - behind) / 2e-6) == pytest.approx(float((analytic * delta).sum()), rel=1e-5)


def _lora(denoiser: Any, targets: list[str], rank: int, alpha: int, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A LoRA of a denoiser as ``diffusers`` saves it, and the change of weights that it stands for."""
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    denoiser.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets))
    torch.manual_seed(seed)
    for name, parameter in denoiser.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0, 0.3)
    state = {name: value.clone() for name, value in get_peft_model_state_dict(denoiser).items()}
    changes = {
        name.replace(".lora_A", ""): state[name.replace("lora_A", "lora_B")] @ value * (alpha / rank)
        for name, value in state.items()
        if "lora_A" in name
    }
    return state, changes


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_loras_are_added_to_the_weights(families: Mapping[str, Path], family: str, tmp_path: Path) -> None:
    """W + Σ scale·(α/r)·B·A, whatever rank, α and scale; what samples is the plain model with these weights."""
    pytest.importorskip("peft")
    pipeline_class = {"sd1": StableDiffusionPipeline, "sdxl": diffusers.StableDiffusionXLPipeline}[family]
    expected = pipeline_class.from_pretrained(families[family])
    weights = {name: value.clone() for name, value in expected.unet.state_dict().items()}
    loras = []
    for seed, (targets, rank, alpha, scale) in enumerate([(["to_q", "to_v"], 2, 6, 0.5), (["to_k", "to_q"], 3, 3, -1)]):
        trained = pipeline_class.from_pretrained(families[family])
        state, changes = _lora(trained.unet, targets, rank, alpha, seed)
        metadata = {"unet_lora_adapter_metadata": trained.unet.peft_config["default"].to_dict()}
        pipeline_class.save_lora_weights(
            tmp_path, unet_lora_layers=state, weight_name=f"{seed}.safetensors", **metadata
        )
        loras.append({"path": str(tmp_path / f"{seed}.safetensors"), "scale": scale})
        for name, change in changes.items():
            weights[name] += scale * change
    config = _config(families[family], lora=loras)
    generator: Any = load_generator(find_generator(config), "cpu")
    merged = generator.pipe.unet.state_dict()
    assert merged.keys() == weights.keys()
    assert max(_difference(merged[name], weights[name]) for name in weights) < 1e-5
    base = load_generator(find_generator(_config(families[family])), "cpu")
    assert generator.revision.startswith(f"{base.revision}+lora-0.5-local-")
    expected.unet.load_state_dict(weights)
    expected.scheduler = generator.pipe.scheduler
    theirs = expected(
        PROMPTS, latents=_noise(generator), num_inference_steps=3, guidance_scale=3.0, output_type="latent"
    ).images
    assert _difference(generator.sample(PROMPTS, _noise(generator), 3), theirs) < 1e-3
    assert _difference(base.sample(PROMPTS, _noise(base), 3), theirs) > 1e-2


LORAS = ("flux-dev", "chroma", "flux2-klein", "z-image", "qwen-image", "sana", "lumina2")


@pytest.mark.parametrize("name", ["sd3", *LORAS])
def test_a_lora_is_added_to_a_transformers_weights(
    name: str, families: Mapping[str, Path], folders: Mapping[str, Path], tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    if name == "sd3":
        fields: dict[str, Any] = {"model": str(families[name]), "scheduler": "flow_euler"}
    else:
        fields = {"model": str(folders[name]), "height": 64, "width": 32, **EVERY[name].options}
    trained = diffusers.DiffusionPipeline.from_pretrained(fields["model"])
    weights = {key: value.clone() for key, value in trained.transformer.state_dict().items()}
    state, changes = _lora(trained.transformer, ["to_q", "to_v"], 2, 6, 0)
    metadata = {"transformer_lora_adapter_metadata": trained.transformer.peft_config["default"].to_dict()}
    type(trained).save_lora_weights(
        tmp_path, transformer_lora_layers=state, weight_name="style.safetensors", **metadata
    )
    lora = [{"path": str(tmp_path / "style.safetensors"), "scale": 0.5}]
    config = GeneratorConfig.model_validate(fields | {"lora": lora})
    generator: Any = load_generator(find_generator(config), "cpu")
    merged = generator.pipe.transformer.state_dict()
    assert merged.keys() == weights.keys()
    assert changes
    for key, weight in weights.items():
        assert _difference(merged[key], weight + 0.5 * changes.get(key, 0)) < 1e-5, key


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlicense: openrail++\n---\n# A model\n", "openrail++"),
        ("---\nlicense: other\nlicense_name: stabilityai-ai-community\n---\n", "stabilityai-ai-community"),
        ("---\ntags: [a]\n---\n", None),
        ("# No front matter\n", None),
        ("---\nlicense: [\n---\n", None),
        (None, None),
    ],
)
def test_the_licence_is_what_the_models_card_says(card: str | None, expected: str | None, tmp_path: Path) -> None:
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert licence(str(tmp_path), None) == expected


def test_the_licence_of_what_cannot_be_asked_is_unknown() -> None:
    assert licence("someone/model", None) is None
    assert licence("/no/such/folder", None) is None


def test_a_checkpointed_vae_has_the_same_gradient_and_keeps_less(families: Mapping[str, Path]) -> None:
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)) * 0.2
    gradients: list[torch.Tensor] = []
    kept: list[int] = []
    for on in (False, True):
        decoder = load_decoder(find_generator(_config(families["sd1"], vae_checkpointing=on)), "cpu", clamp=False)
        sizes: dict[int, int] = {}

        def note(tensor: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
            sizes[tensor.data_ptr()] = tensor.nbytes
            return tensor

        leaf = latents.clone().requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            brightness = decoder(leaf).square().sum()
        gradients += torch.autograd.grad(brightness, leaf)
        kept.append(sum(sizes.values()))
    assert _difference(*gradients) < 1e-6
    assert kept[1] < kept[0] / 2


def test_a_vae_that_the_library_cannot_checkpoint_is_refused(folders: Mapping[str, Path]) -> None:
    fields = {"model": str(folders["qwen-image"]), "vae_checkpointing": True, **EVERY["qwen-image"].options}
    with pytest.raises(UserError, match=r"^generators\.vae_checkpointing: the VAE of .* is a AutoencoderKLQwenImage"):
        find_generator(GeneratorConfig.model_validate({"height": 64, "width": 32} | fields))
