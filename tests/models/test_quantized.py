"""Weights of fewer bits: what is computed with them, what they take, and what cannot be quantised."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from noisesmith.pipeline.config import GeneratorConfig, JudgeConfig, RunConfig, ScorerConfig
from noisesmith.pipeline.cost.measure import weight_bytes
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.generators import find_generator, load_generator, model_parts, part_without_weights
from noisesmith.pipeline.models import quantization
from noisesmith.pipeline.models.gradients import let_gradients_pass
from noisesmith.pipeline.models.quantization import without_quantization
from noisesmith.pipeline.scorers import find_judge, find_scorer, load_scorer
from tests import tiny_pipelines
from tests.tiny_families import SCORERS

METHODS = ["torchao-int8", "torchao-float8"]
PROMPTS = ["a cat", "a red car on a dog"]


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipelines.EVERY["flux-schnell"].build(tmp_path_factory.mktemp("flux"))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return SCORERS["qwen3_vl"](tmp_path_factory.mktemp("qwen"))


def _flux_config(folder: Path, **options: Any) -> GeneratorConfig:
    fields = {"model": str(folder), "steps": 2, "height": 64, "width": 32}
    return GeneratorConfig.model_validate({**fields, **tiny_pipelines.EVERY["flux-schnell"].options, **options})


def _quantized_layers(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if hasattr(getattr(module, "weight", None), "qdata")]


def _dequantized(model: Any) -> Any:
    """The same model, whose linear layers are torch's own with the values that their quantised weights stand for."""
    plain = copy.deepcopy(model)
    for name in _quantized_layers(plain):
        old: Any = plain.get_submodule(name)
        layer = nn.Linear(old.in_features, old.out_features, bias=old.bias is not None)
        layer.weight = nn.Parameter(_values(old.weight), requires_grad=False)
        layer.bias = old.bias
        plain.set_submodule(name, layer)
    assert not _quantized_layers(plain)
    return plain


def _values(weight: Any) -> Tensor:
    """Each number of a quantised matrix is its integer or 8-bit float times its row's scale."""
    values: Tensor = weight.qdata.float() * weight.scale
    return values


def _held(model: nn.Module) -> int:
    """Bytes of all that a loaded model holds: of quantised weights, of the tensors that make them up."""
    held = 0
    for one in [*model.parameters(), *model.buffers()]:
        parts = one.__tensor_flatten__()[0] if hasattr(one, "__tensor_flatten__") else []
        held += sum(getattr(one, name).nbytes for name in parts) if parts else one.nbytes
    return held


@pytest.mark.parametrize("method", METHODS)
def test_a_quantized_generator_computes_with_the_values_that_its_weights_stand_for(method: str, flux: Path) -> None:
    real: Any = load_generator(find_generator(_flux_config(flux, quantization=method)), "cpu")
    assert not _quantized_layers(real.pipe.vae)
    noise = torch.randn(2, *real.spec.shape, generator=torch.Generator().manual_seed(0))
    found = real.sample(PROMPTS, noise, 2)
    for name in ("transformer", "text_encoder", "text_encoder_2"):
        assert len(_quantized_layers(getattr(real.pipe, name))) > 10
        setattr(real.pipe, name, _dequantized(getattr(real.pipe, name)))
    real.pipe.encode_prompt = type(real.pipe).encode_prompt.__get__(real.pipe)  # forgets the texts that it has read
    assert torch.allclose(real.sample(PROMPTS, noise, 2), found, rtol=0, atol=1e-5)
    plain = load_generator(find_generator(_flux_config(flux)), "cpu").sample(PROMPTS, noise, 2)
    change = float((found - plain).norm() / plain.norm())
    assert 1e-5 < change < 0.1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["qwen3_vl", "clip_flant5"])
def test_a_quantized_scorer_has_the_score_and_the_gradient_of_its_weights_values(
    method: str, family: str, tmp_path: Path
) -> None:
    config = ScorerConfig.model_validate({"model": str(SCORERS[family](tmp_path)), "quantization": method})
    found: Any = find_scorer(config)
    scorer = found.family(found, "cpu", rounding=False)
    assert len(_quantized_layers(scorer.model)) > 20
    images = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0)).requires_grad_()
    scores = scorer.log_scores(PROMPTS, images)
    (gradient,) = torch.autograd.grad(scores.sum(), images)
    scorer.model = _dequantized(scorer.model)
    expected = scorer.log_scores(PROMPTS, images)
    (slope,) = torch.autograd.grad(expected.sum(), images)
    assert torch.allclose(scores, expected, rtol=0, atol=1e-5)
    assert float((gradient - slope).norm() / slope.norm()) < 1e-5


@pytest.mark.parametrize("method", METHODS)
def test_the_gradient_of_a_quantized_scorer_matches_finite_differences(method: str, qwen: Path) -> None:
    """In float32, along the gradient, by a step that is long enough for its rounding."""
    found: Any = find_scorer(ScorerConfig.model_validate({"model": str(qwen), "quantization": method}))
    scorer = found.family(found, "cpu", rounding=False)
    images = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (slope,) = torch.autograd.grad(scorer.log_scores(PROMPTS, images).sum(), images)
    step = 1e-2 * slope / slope.norm()
    with torch.no_grad():
        there, back = (scorer.log_scores(PROMPTS, images + sign * step).double().sum() for sign in (1, -1))
    assert float(there - back) / 2e-2 == pytest.approx(float(slope.norm()), rel=1e-2)


def test_the_gradient_keeps_no_weights_in_the_computing_type() -> None:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4)).requires_grad_(False)
    quantize_(model, Int8WeightOnlyConfig(set_inductor_config=False))
    shapes = {(16, 8), (8, 16), (4, 16), (16, 4)}
    assert shapes & _shapes_kept_for_the_gradient(model), "torchao's own layers keep them"
    let_gradients_pass(model)
    assert not shapes & _shapes_kept_for_the_gradient(model)


def _shapes_kept_for_the_gradient(model: nn.Module) -> set[tuple[int, ...]]:
    """The shapes of the tensors that a forward pass keeps until the backward pass."""
    kept: set[tuple[int, ...]] = set()

    def keep(tensor: Tensor) -> Tensor:
        kept.add(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(torch.randn(3, 8, requires_grad=True)).sum().backward()
    return kept


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_plan_counts_the_bytes_that_quantized_models_hold(method: str, dtype: str, flux: Path, qwen: Path) -> None:
    found = find_generator(_flux_config(flux, quantization=method, dtype=dtype))
    real: Any = load_generator(found, "cpu")
    for name in model_parts(found):
        assert weight_bytes(part_without_weights(found, name)) == _held(getattr(real.pipe, name)), name
    scorer = find_scorer(ScorerConfig.model_validate({"model": str(qwen), "quantization": method, "dtype": dtype}))
    weightless = scorer.family.without_weights(scorer)
    loaded: Any = load_scorer(scorer, "cpu")
    assert weightless is not None
    assert weight_bytes(weightless) == _held(loaded.model)
    plain = find_scorer(ScorerConfig.model_validate({"model": str(qwen), "dtype": dtype}))
    unquantized = plain.family.without_weights(plain)
    assert unquantized is not None
    assert weight_bytes(weightless) < weight_bytes(unquantized)


def test_the_parts_that_are_named_are_quantized_and_no_others(flux: Path) -> None:
    config = _flux_config(flux, quantization="torchao-int8", quantized_parts=["text_encoder_2"])
    real: Any = load_generator(find_generator(config), "cpu")
    counts = {name: len(_quantized_layers(getattr(real.pipe, name))) for name in ("transformer", "text_encoder")}
    assert counts == {"transformer": 0, "text_encoder": 0}
    assert _quantized_layers(real.pipe.text_encoder_2)
    assert real.revision.endswith("+torchao-int8(text_encoder_2)")


def test_rows_and_digests_tell_how_weights_are_stored(flux: Path, qwen: Path) -> None:
    plain = find_scorer(ScorerConfig(model=str(qwen)))
    stored = find_scorer(ScorerConfig(model=str(qwen), quantization="torchao-float8"))
    assert stored.revision == f"{plain.revision}+torchao-float8"
    assert without_quantization(stored.revision) == plain.revision == without_quantization(plain.revision)
    generator = find_generator(_flux_config(flux, quantization="torchao-int8"))
    assert generator.revision == find_generator(_flux_config(flux)).revision + "+torchao-int8"
    sides = [{}, {"quantization": "torchao-int8"}, {"quantization": "torchao-float8"}]
    digests = [RunConfig.model_validate({"scorers": fields}).digest() for fields in sides]
    digests += [RunConfig.model_validate({"generators": fields}).digest() for fields in sides[1:]]
    assert len(set(digests)) == 5
    assert not [key for key in RunConfig().semantic() if "quantiz" in key], "runs from before have the same digest"


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "on a CPU": (
        {"quantization": "bitsandbytes-nf4", "dtype": "bfloat16"},
        "generators.quantization: bitsandbytes-nf4 needs a GPU, but num_gpus is 0",
    ),
    "in float32": (
        {"quantization": "bitsandbytes-nf4", "num_gpus": 1},
        "generators.quantization: bitsandbytes-nf4 computes in 16 bits; set dtype to",
    ),
    "compiled": (
        {"quantization": "torchao-int8", "compile": True},
        "generators.quantization: generators.compile is",
    ),
    "offloaded": (
        {"quantization": "torchao-int8", "cpu_offload": True, "num_gpus": 1},
        "generators.quantization: generators.cpu_offload is",
    ),
    "the VAE": (
        {"quantization": "torchao-int8", "quantized_parts": ["vae"]},
        "generators.quantized_parts: the VAE is never quantised; give some of text_encoder, unet",
    ),
    "no such part": (
        {"quantization": "torchao-int8", "quantized_parts": ["transformer"]},
        "generators.quantized_parts: ",
    ),
}


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is installed here, both packages are."""
    monkeypatch.setattr(quantization, "find_spec", lambda name: name)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_quantized_is_one_sentence(name: str, tiny_sd: Path, packages: None) -> None:
    fields, message = REFUSED[name]
    config = GeneratorConfig.model_validate({"model": str(tiny_sd)} | fields)
    assert _refusal(find_generator, config).startswith(message)


@pytest.mark.parametrize("method", ["torchao-int8", "bitsandbytes-nf4"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    method: Any, tiny_sd: Path, tiny_llava: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    package = method.partition("-")[0]
    remedy = f"{method} needs the {package} package; install it with `pip install {package}`"
    generator = GeneratorConfig(model=str(tiny_sd), quantization=method)
    assert _refusal(find_generator, generator) == f"generators.quantization: {remedy}"
    assert _refusal(find_scorer, ScorerConfig(model=str(tiny_llava), quantization=method)).endswith(remedy)
    judge = JudgeConfig(name="eye", model=str(tiny_llava), quantization=method)
    assert _refusal(find_judge, judge, ScorerConfig()) == f"judges.eye.quantization: {remedy}"


def test_scorers_that_are_not_quantized(tmp_path: Path) -> None:
    method: Any = "torchao-int8"
    clip = ScorerConfig(model=str(SCORERS["clip"](tmp_path)), quantization=method)
    assert "is a CLIPModel, which is not quantised; remove it" in _refusal(find_scorer, clip)
    judge = JudgeConfig(name="eye", model="embedded/judge", quantization=method)
    assert "'embedded/judge' is a Judge, which is not quantised" in _refusal(find_judge, judge, ScorerConfig())
    own = ScorerConfig(model="package.module:Class", allow_code=True, quantization=method)
    assert "is a class of your own" in _refusal(find_scorer, own)
    with pytest.raises(ValueError, match="quantization: a server stores its model's weights as it was started"):
        ScorerConfig(model="http://localhost:8000/v1", quantization=method)
    with pytest.raises(ValueError, match="quantized_parts: needs quantization"):
        GeneratorConfig(quantized_parts=("transformer",))


def test_weights_that_are_stored_quantized_are_not_quantized_again(tmp_path: Path) -> None:
    folder = SCORERS["llava"](tmp_path)
    config = folder / "config.json"
    config.write_text(config.read_text().replace("{", '{"quantization_config": {"quant_method": "awq"},', 1))
    message = _refusal(find_scorer, ScorerConfig(model=str(folder), quantization="torchao-int8"))
    assert message == f"scorers.quantization: the weights of {str(folder)!r} are stored quantised already; remove it"


def test_a_lora_is_not_merged_into_quantized_weights(tmp_path: Path, tiny_sd: Path) -> None:
    path = tmp_path / "style.safetensors"
    save_file({"unet.lora.down.weight": torch.zeros(1, 1)}, path)
    fields = {"model": str(tiny_sd), "lora": [{"path": str(path)}], "quantization": "torchao-int8"}
    message = _refusal(find_generator, GeneratorConfig.model_validate(fields))
    assert message.startswith("generators.quantization: generators.lora are added to weights")


def _refusal(find: Callable[..., object], *configs: object) -> str:
    with pytest.raises(UserError) as refused:
        find(*configs)
    return str(refused.value)
