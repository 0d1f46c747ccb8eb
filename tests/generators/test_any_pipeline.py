"""Pipelines without an adapter of their own, and what of the newer ones is refused before a model is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AuraFlowPipeline
from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING

from noisesmith.pipeline.config import GeneratorConfig, RunConfig, load_config
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.generators import find_generator, load_generator
from noisesmith.pipeline.generators.affine import find_selection
from noisesmith.pipeline.generators.any_pipeline import guides_at
from noisesmith.pipeline.load import load_models
from noisesmith.pipeline.noise import NoiseKey, digest, replay
from noisesmith.pipeline.preflight import find_models
from noisesmith.pipeline.prompts import open_corpus
from noisesmith.pipeline.search.loop import search_rows
from tests.runs import write_config
from tests.tiny_pipelines import EVERY, WITHOUT_ADAPTER

SIZE = {"height": 64, "width": 32}


def _run(folder: Path, name: str, folders: Mapping[str, Path], llava: Path, method: str) -> RunConfig:
    generators = {**EVERY[name].options, **SIZE, "steps": EVERY[name].options.get("steps", 2)}
    path = write_config(folder, folders[name], llava, rows=2, generators=generators)
    settings = load_config(path).model_dump(mode="json")
    return RunConfig.model_validate(settings | {"optimizer": {"method": method, "rounds": 2}})


@pytest.mark.parametrize(
    ("name", "method"),
    [
        *((name, method) for name in WITHOUT_ADAPTER for method in ("random_sampling", "noise_diffusion")),
        *((name, "noise_diffusion") for name in ("qwen-image", "sana-sprint")),
    ],
)
def test_a_search_runs_and_its_recipes_rebuild_the_noise(
    tmp_path: Path, folders: Mapping[str, Path], tiny_llava: Path, name: str, method: str
) -> None:
    config = _run(tmp_path, name, folders, tiny_llava, method)
    models = load_models(config, "cpu")
    results = list(search_rows(open_corpus(config).rows(), config, models))
    assert len(results) == 2
    for result in results:
        assert len(result.scores) == 3
        assert (result.width, result.height) == (32, 64)
        assert result.recipe.shape == models.generator.spec.shape
        assert digest(replay(result.recipe, result.row.id)) == result.recipe.digest


@pytest.mark.parametrize(
    ("run", "follows"),
    [
        (lambda z: 3 * z.flip(0) - 1, True),
        (lambda z: z.reshape(4, 3, 2).permute(2, 0, 1) * torch.linspace(0.5, 2, 24).reshape(2, 4, 3), True),
        (lambda z: z.clamp(-1, 1), False),
        (lambda z: z + 0.01 * z.square(), False),
        (lambda z: z.cumsum(0), False),
        (lambda z: z[:2], False),
        (lambda z: z * 0, False),
        (lambda z: z[0].expand(6, 4), False),
    ],
)
def test_a_map_is_found_where_each_number_follows_one_number(
    run: Callable[[torch.Tensor], torch.Tensor], follows: bool
) -> None:
    selection = find_selection(run, (6, 4))
    assert (selection is not None) is follows
    if selection is not None:
        noise = torch.randn(6, 4, requires_grad=True)
        image = run(noise)
        slope = torch.randn(image.shape)
        (expected,) = torch.autograd.grad(image, noise, slope)
        assert torch.allclose(selection.pull_back(slope), expected, atol=1e-5)


def test_places_are_told_apart_in_latents_of_a_megapixel() -> None:
    places = torch.randperm(16 * 128 * 128, generator=torch.Generator().manual_seed(0))
    selection = find_selection(lambda noise: 2.5 * noise.flatten()[places] + 0.3, (16, 128, 128))
    assert selection is not None
    assert torch.equal(selection.source, places)


def test_a_gradient_method_is_refused_where_the_image_does_not_follow_the_noise(
    tmp_path: Path, folders: Mapping[str, Path], tiny_llava: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Methods without a gradient run: the pipeline squashes its latents, and starts from them all the same."""
    prepare = AuraFlowPipeline.prepare_latents
    monkeypatch.setattr(AuraFlowPipeline, "prepare_latents", lambda *args, **kw: prepare(*args, **kw).tanh())
    with pytest.raises(UserError, match="no gradient of the score reaches the noise; use random_sampling"):
        find_models(_run(tmp_path, "aura-flow", folders, tiny_llava, "noise_diffusion"))
    find_models(_run(tmp_path, "aura-flow", folders, tiny_llava, "random_sampling"))


def test_a_pipeline_that_draws_noise_besides_its_latents_is_refused(
    folders: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = AuraFlowPipeline.prepare_latents

    def disturb(*args: Any, **kwargs: Any) -> torch.Tensor:
        latents: torch.Tensor = prepare(*args, **kwargs)
        return latents + torch.randn_like(latents)

    monkeypatch.setattr(AuraFlowPipeline, "prepare_latents", disturb)
    assert "draws noise besides its initial noise" in _refusal("aura-flow", folders)


def test_a_pipeline_that_ignores_its_latents_is_refused(
    folders: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = AuraFlowPipeline.prepare_latents
    monkeypatch.setattr(AuraFlowPipeline, "prepare_latents", lambda *args, **kw: prepare(*args, **kw) * 0)
    assert "does not start from the latents it is given" in _refusal("aura-flow", folders)


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "guidance of schnell": ("flux-schnell", {"guidance_scale": 3.5}, "generators.guidance_scale: "),
    "guidance of a distilled model": ("flux2-klein", {"guidance_scale": 4.0}, "generators.guidance_scale: "),
    "negative prompt of FLUX": ("flux-dev", {"negative_prompt": "blur"}, "generators.negative_prompt: "),
    "negative prompt of Krea 2 without guidance": (
        "krea2", {"guidance_scale": 0.0, "negative_prompt": "blur"}, "raise guidance_scale above 0 or remove it",
    ),
    "negative prompt without guidance": (
        "z-image-turbo", {"negative_prompt": "blur"}, "raise guidance_scale above 0 or remove it",
    ),
    "two steps of SANA-Sprint": ("sana-sprint", {"steps": 2}, "generators.steps: scm draws fresh noise"),
    "another sampler for SANA-Sprint": ("sana-sprint", {"scheduler": "flow_euler"}, "use scm"),
    "SANA-Sprint's sampler for FLUX": ("flux-dev", {"scheduler": "scm", "steps": 1}, "scm does not fit"),
    "a noise sampler for a flow": ("flux-dev", {"scheduler": "ddim"}, "use flow_euler"),
    "a noise sampler for SANA": ("sana", {"scheduler": "euler"}, "use dpmsolver++ or flow_euler"),
    "size off the grid": ("flux-dev", {"height": 62}, "generators.height: 62 is not a multiple of 4"),
    "size off SANA's grid": ("sana", {"width": 48}, "generators.width: 48 is not a multiple of 32"),
    "skipped layers of FLUX": ("flux-dev", {"skip_layer_guidance": {"layers": [1]}}, "cannot skip layers"),
    "LoRA of PixArt": ("pixart-sigma", {"lora": [{"path": "a.safetensors"}]}, "merges none into a PixArtSigmaPipeline"),
    "no T5 to drop": ("chroma", {"drop_t5": True}, "generators.drop_t5: "),
    "a sampler of another kind": ("aura-flow", {"scheduler": "ddim"}, "use flow_euler"),
    "sizes that a pipeline refuses": ("pixart-alpha", {"height": 60}, "cannot be run on a prompt and latents alone"),
}  # fmt: skip


def _refusal(name: str, folders: Mapping[str, Path], **options: Any) -> str:
    fields = {"model": str(folders[name]), "steps": 3, **SIZE, **EVERY[name].options}
    with pytest.raises(UserError) as refused:
        find_generator(GeneratorConfig.model_validate(fields | options))
    return str(refused.value)


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_family_cannot_do_is_refused(case: str, folders: Mapping[str, Path]) -> None:
    name, options, named = REFUSED[case]
    assert named in _refusal(name, folders, **options)


def test_a_pipeline_that_guides_above_0_takes_a_negative_prompt_there(folders: Mapping[str, Path]) -> None:
    fields = {"model": str(folders["krea2"]), "steps": 2, **SIZE, **EVERY["krea2"].options, "guidance_scale": 1.0}
    images = []
    for negative in ("", "a blue dog"):
        config = GeneratorConfig.model_validate(fields | {"negative_prompt": negative})
        generator = load_generator(find_generator(config), "cpu")
        noise = NoiseKey(0, "row", 0).draw(0, generator.spec.shape)[None]
        images.append(generator.sample(["a cat"], noise, 2))
    assert not torch.allclose(images[0], images[1], atol=1e-3)


def test_the_pipelines_that_guide_at_1_are_those_whose_code_adds_the_scaled_difference() -> None:
    classes = {pipeline.__name__: pipeline for pipeline in AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values()}
    z_image = ("ZImagePipeline", "ZImageControlNetPipeline", "ZImageControlNetInpaintPipeline", "ZImageOmniPipeline")
    assert {name for name, pipeline in classes.items() if guides_at(pipeline, 1.0)} == {"Krea2Pipeline", *z_image}
    assert not any(guides_at(pipeline, 0.0) for pipeline in classes.values())


@pytest.mark.parametrize(
    ("class_name", "named"),
    [
        ("IFPipeline", "takes no initial noise"),
        ("KandinskyV22CombinedPipeline", "is not one denoiser and one VAE"),
        ("FluxControlPipeline", "cannot be run on a prompt and latents alone"),
    ],
)
def test_a_pipeline_that_needs_more_than_a_prompt_is_refused(
    class_name: str, named: str, folders: Mapping[str, Path], tmp_path: Path
) -> None:
    copy = shutil.copytree(folders["flux-dev"], tmp_path / "copy")
    index = json.loads((copy / "model_index.json").read_text()) | {"_class_name": class_name}
    if class_name.startswith("Kandinsky"):
        del index["vae"]
    (copy / "model_index.json").write_text(json.dumps(index))
    message = _refusal("flux-dev", {"flux-dev": copy})
    assert f"is a {class_name}" in message
    assert named in message


def test_an_editing_model_is_refused(folders: Mapping[str, Path], tmp_path: Path) -> None:
    copy = shutil.copytree(folders["flux-dev"], tmp_path / "copy")
    config = json.loads((copy / "transformer" / "config.json").read_text())
    (copy / "transformer" / "config.json").write_text(json.dumps(config | {"in_channels": 384}))
    assert "takes 384 channels where an image has 64" in _refusal("flux-dev", {"flux-dev": copy})
