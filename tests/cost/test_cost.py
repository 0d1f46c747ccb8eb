"""The memory and work that plan estimates, against the same models with weights, and against published figures."""

from __future__ import annotations

import json
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from noisesmith.pipeline.cli import main
from noisesmith.pipeline.config import GeneratorConfig, ScorerConfig, load_config
from noisesmith.pipeline.cost.estimate import Side
from noisesmith.pipeline.cost.generator import generate_cost
from noisesmith.pipeline.cost.measure import Cost, parameters, weight_bytes
from noisesmith.pipeline.cost.scorer import TEXT_TOKENS, Weightless, score_cost
from noisesmith.pipeline.generators import (
    find_generator,
    load_decoder,
    load_generator,
    model_parts,
    part_without_weights,
)
from noisesmith.pipeline.generators.conditioning import RememberedText
from noisesmith.pipeline.generators.decoder import decoder_without_weights
from noisesmith.pipeline.scorers import find_scorer, load_scorer
from noisesmith.pipeline.scorers.loaded import LoadedScorer
from tests import published, published_scorers, tiny_generators, tiny_pipelines
from tests.runs import write_config
from tests.tiny_families import SCORERS

_aten = torch.ops.aten
CPU_ATTENTION = {  # the counter knows CUDA's kernels alone
    _aten._scaled_dot_product_flash_attention_for_cpu: lambda *shapes, **_: sdpa_flop_count(*shapes[:3]),
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda *shapes, **_: sdpa_backward_flop_count(
        *shapes[:4]
    ),
}
BILLIONS = {  # parameters in the published files, of the denoiser and of the scorer without the decoder
    "sd15-clipflant5": (0.859520964, 2.849757184 + 0.303507456),
    "sd21-llava": (0.865910724, 7.063427072),
    "sd35-clipflant5xxl": (2.243171520, 11.135332352 + 0.303507456),
    "sdxl-qwenvl": (2.567463684, 8.292166656),
    "sdxl-turbo-small": (2.567463684, 3.754622976),
}


@contextmanager
def _real_flops() -> Iterator[list[int]]:
    """Operations of what runs inside, on numbers."""
    total: list[int] = []
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        yield total
    total.append(counter.get_total_flops())


@pytest.mark.parametrize("family", tiny_generators.FAMILIES)
def test_a_generators_weights_and_operations_are_those_of_the_loaded_pipeline(family: str, tmp_path: Path) -> None:
    model = str(tiny_generators.FAMILIES[family](tmp_path))
    sampler: Any = "flow_euler" if family == "sd3" else "ddim"
    for dtype in ("float32", "float16"):
        config = GeneratorConfig(model=model, scheduler=sampler, steps=3, negative_prompt="a bowl", dtype=dtype)
        found = find_generator(config)
        real: Any = load_generator(found, "cpu")
        weightless = {name: part_without_weights(found, name) for name in model_parts(found)}
        for name, part in weightless.items():
            whole = getattr(real.pipe, name)
            assert (parameters(part), weight_bytes(part)) == (parameters(whole), weight_bytes(whole)), (name, dtype)
        if dtype == "float32":
            cost = generate_cost(found, weightless, 2)
            _compare_first_and_later_images(cost, real, 3)
            assert cost.once > 0


@pytest.mark.parametrize("name", tiny_pipelines.ONE_OF_EACH)
def test_a_pipelines_weights_and_operations_are_those_of_the_loaded_one(name: str, tmp_path: Path) -> None:
    tiny = tiny_pipelines.EVERY[name]
    model = str(tiny.build(tmp_path))
    for dtype in ("float32", "bfloat16"):
        fields = {"model": model, "steps": 3, "height": 64, "width": 32, "dtype": dtype, **tiny.options}
        config = GeneratorConfig.model_validate(fields)
        found = find_generator(config)
        real: Any = load_generator(found, "cpu")
        weightless = {part: part_without_weights(found, part) for part in model_parts(found)}
        for part, bare in weightless.items():
            whole = getattr(real.pipe, part)
            assert (parameters(bare), weight_bytes(bare)) == (parameters(whole), weight_bytes(whole)), (part, dtype)
    cost = generate_cost(found, weightless, 2, "a cat")
    _compare_first_and_later_images(cost, real, config.steps)


def _compare_first_and_later_images(cost: Cost, real: Any, steps: int) -> None:
    """Later images of the same prompts take as many operations less as are counted once.

    The first take less than is counted where the pipeline encodes the negative prompt of all rows apart.
    """
    remembered = real.pipe.encode_prompt
    own = remembered.__wrapped__ if isinstance(remembered, RememberedText) else remembered
    counted = []
    for encode in (own, remembered, remembered):
        real.pipe.encode_prompt = encode
        with _real_flops() as flops:
            real.sample(["a cat", "a dog"], torch.randn(2, *real.spec.shape), steps)
        counted += flops
    alone, first, later = counted
    assert (alone, later) == (cost.flops, cost.flops - cost.once)
    assert alone >= first
    assert (first > later) == isinstance(remembered, RememberedText)


def test_operations_per_image_share_those_of_the_text_encoder_among_the_images_of_a_row() -> None:
    side = Side(10, 40, 2, Cost(flops=2 * (1000 + 300), peak_bytes=1, once=2 * 300), (), images=6)
    assert side.flops == pytest.approx(1000 + 300 / 6)
    assert "1e-09 TFLOP per image and 3e-10 TFLOP once per prompt" in str(side)


@pytest.mark.parametrize("name", ["flux-schnell", "qwen-image", "sana", "flux2-klein"])
def test_a_decoders_operations_are_those_of_the_loaded_one(name: str, tmp_path: Path) -> None:
    tiny = tiny_pipelines.EVERY[name]
    fields = {"model": str(tiny.build(tmp_path)), "height": 64, "width": 32, **tiny.options}
    found = find_generator(GeneratorConfig.model_validate(fields))
    cost = score_cost(decoder_without_weights(found), [], found.spec, 2)
    decoder = load_decoder(found, "cpu")
    with _real_flops() as flops, torch.no_grad():
        decoder(torch.randn(2, *found.spec.decoded))
    assert [cost.flops] == flops


@pytest.mark.parametrize("name", ["flux-dev", "qwen-image", "aura-flow"])
def test_plan_prints_what_either_side_of_a_newer_family_takes(
    name: str, tmp_path: Path, tiny_llava: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = tiny_pipelines.EVERY[name]
    generators = {**tiny.options, "height": 64, "width": 32}
    path = write_config(tmp_path, tiny.build(tmp_path / "model"), tiny_llava, generators=generators)
    plan = _plan(path, monkeypatch, capsys)
    assert plan.count("TFLOP per image") == plan.count("of activations at batch") == 2
    assert "at most 18 images, 36 evaluations of the transformer " in plan


@pytest.mark.parametrize("family", SCORERS)
def test_a_scorers_weights_operations_and_memory_are_those_of_the_loaded_model(
    family: str, tmp_path: Path, tiny_sd: Path, record_property: Any
) -> None:
    """The same inputs through the model with weights: its operations, and its allocator's peak as torch records it."""
    folder, batch = SCORERS[family](tmp_path), 2
    generator = find_generator(GeneratorConfig(model=str(tiny_sd)))
    spec = generator.spec
    for dtype in ("float16", "float32"):
        if (family, dtype) == ("clip_flant5", "float16"):
            continue  # refused
        config = ScorerConfig(model=str(folder), dtype=dtype)
        found = find_scorer(config)
        weightless = found.family.without_weights(found)
        assert weightless is not None
        real = load_scorer(found, "cpu").model  # type: ignore[attr-defined]
        assert (parameters(weightless), weight_bytes(weightless)) == (parameters(real), weight_bytes(real)), dtype
    cost = score_cost(decoder_without_weights(generator), [Weightless(found, weightless, True)], spec, batch)

    decoder = load_decoder(generator, "cpu")
    assert issubclass(found.family, LoadedScorer)
    scorer_family = found.family
    vision = scorer_family.blank_vision(found, spec.height, spec.width, batch)
    vision["pixel_values"] = torch.zeros(vision["pixel_values"].shape)
    text = scorer_family.blank_text(real, vision, batch, TEXT_TOKENS)

    def work() -> None:
        latents = torch.randn(batch, *spec.shape).requires_grad_()
        pixels = decoder(latents).mean() + vision["pixel_values"]
        scorer_family.score_blank(real, text, vision | {"pixel_values": pixels}).sum().backward()

    with _real_flops() as flops:
        work()
    assert [cost.flops] == flops
    allocated = _allocated(work)
    record_property("allocated / estimated", allocated / cost.peak_bytes)
    assert allocated == pytest.approx(cost.peak_bytes, rel=0.15)


def _allocated(work: Callable[[], None]) -> int:
    """The most bytes that torch's CPU allocator had handed out at once."""
    with torch.profiler.profile(profile_memory=True) as profile:
        work()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))


@pytest.mark.parametrize("name", BILLIONS)
def test_a_shipped_config_has_the_published_numbers_of_parameters(name: str, tmp_path: Path) -> None:
    config = load_config(Path(__file__).parents[2] / "configs" / f"{name}.yaml")
    models = {side: published.folder_of(getattr(config, side).model, tmp_path) for side in ("generators", "scorers")}
    generator = GeneratorConfig(model=str(models["generators"]), scheduler=config.generators.scheduler)
    found = find_generator(generator)
    part = "transformer" if "sd35" in name else "unet"
    denoiser = part_without_weights(found, part)
    steering = find_scorer(ScorerConfig(model=str(models["scorers"]), dtype="bfloat16"))
    scorer: Any = steering.family.without_weights(steering)
    projector = sum(one.numel() for one in scorer.mm_projector.parameters()) if "flant5" in name else 0
    billions = (parameters(denoiser) / 1e9, (parameters(scorer) - projector) / 1e9)
    assert billions == pytest.approx(BILLIONS[name], abs=1e-9)


@pytest.mark.parametrize(
    ("model", "stated"),
    [
        (published.FLUX_DEV, "12"),
        (published.FLUX_SCHNELL, "12"),
        (published.FLUX2_DEV, "32"),
        (published.KLEIN, "4"),
        (published.CHROMA, "8.9"),
        (published.Z_IMAGE, "6"),
        (published.QWEN_IMAGE, "20"),
        (published.SANA, "1.6"),
        (published.PIXART, "0.6"),
        (published.LUMINA, "2.6"),
    ],
)
def test_a_newer_model_has_the_billions_of_parameters_that_it_is_known_for(
    model: str, stated: str, tmp_path: Path
) -> None:
    folder = published.folder_of(model, tmp_path)
    scheduler: Any = "dpmsolver++" if model in (published.SANA, published.PIXART) else "flow_euler"
    found = find_generator(GeneratorConfig(model=str(folder), scheduler=scheduler, guidance_scale=0.0))
    assert (found.spec.height, found.spec.width) == (1024, 1024)
    decimals = len(stated.partition(".")[2])
    assert f"{parameters(part_without_weights(found, 'transformer')) / 1e9:.{decimals}f}" == stated


@pytest.mark.parametrize(
    ("model", "stated"),
    [
        (published_scorers.QWEN3_8B, "8.77"),
        (published_scorers.QWEN3_2B, "2.13"),
        (published_scorers.ONEVISION, "8.03"),
        (published_scorers.INTERNVL, "7.94"),
        (published_scorers.SMOLVLM, "2.25"),
        (published_scorers.GEMMA3, "4.30"),
        (published_scorers.PALIGEMMA2, "3.03"),
        (published_scorers.HPSV2, "0.99"),
        (published_scorers.IMAGE_REWARD, "0.45"),
    ],
)
def test_a_newer_scorer_has_the_billions_of_parameters_of_its_published_files(
    model: str, stated: str, tmp_path: Path
) -> None:
    found = find_scorer(ScorerConfig(model=str(published.folder_of(model, tmp_path)), dtype="bfloat16"))
    weightless = found.family.without_weights(found)
    assert weightless is not None
    assert f"{parameters(weightless) / 1e9:.2f}" == stated


def test_plan_prints_what_either_side_takes(
    tmp_path: Path, tiny_sd: Path, tiny_llava: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = _plan(write_config(tmp_path, tiny_sd, tiny_llava), monkeypatch, capsys)
    assert plan.count("TFLOP per image") == plan.count("of activations at batch") == 2
    assert "100 TFLOP/s sustained (an assumption)" in plan
    assert "at most 18 images, 36 evaluations of the U-Net " in plan


def test_plan_prints_what_each_member_of_a_panel_takes(
    tmp_path: Path, tiny_sd: Path, tiny_llava: Path, tiny_clip_flant5: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    members = [
        {"name": "llava", "model": str(tiny_llava), "num_gpus": 1, "weight": 2},
        {"name": "flan", "model": str(tiny_clip_flant5), "num_gpus": 0.5, "count": 2},
        {"name": "again", "model": str(tiny_llava), "shares": "flan", "gradient": False},
    ]
    path = write_config(tmp_path, tiny_sd, tiny_llava, scorers=members, combine="min", ray={"address": "auto"})
    plan = _plan(path, monkeypatch, capsys)
    assert f"scorer llava {tiny_llava} (LlavaForConditionalGeneration), readout yes, weight 2" in plan
    assert "weight 1, counts in the score alone, in the actors of flan combined by min" in plan
    assert "1 scorers llava (1 GPU, 1 CPU each), 2 scorers flan (0.5 GPU, 1 CPU each), 2 GPUs in all" in plan
    assert plan.count("TFLOP per image") == plan.count("of activations at batch") == 3
    assert re.search(r"a scorer flan \S+ G parameters, \S+ GB \(flan \S+ GB, again \S+ GB\)", plan)
    assert "per scorer llava" in plan or "scorers llava per generator" in plan
    assert "prompts for scorers.again.model" in plan


def test_plan_goes_on_without_the_files_that_only_its_estimate_reads(
    tmp_path: Path, tiny_sd: Path, tiny_llava: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    generator, scorer = (Path(shutil.copytree(one, tmp_path / one.name)) for one in (tiny_sd, tiny_llava))
    (generator / "text_encoder" / "config.json").unlink()
    (scorer / "processor_config.json").unlink()
    plan = _plan(write_config(tmp_path, generator, scorer), monkeypatch, capsys)
    assert "without text_encoder (generators.model" in plan
    assert "parameters only; without a batch" in plan
    assert "unknown" in plan


def test_plan_says_of_a_damaged_model_what_it_cannot_find_out_and_no_more(
    tmp_path: Path, tiny_sd: Path, tiny_llava: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A layer without elements: torch warns of it where it would be filled."""
    generator = Path(shutil.copytree(tiny_sd, tmp_path / "sd"))
    config = json.loads((generator / "unet" / "config.json").read_text())
    (generator / "unet" / "config.json").write_text(json.dumps(config | {"attention_head_dim": 2**64}))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        plan = _plan(write_config(tmp_path, generator, tiny_llava), monkeypatch, capsys)
    assert "parameters only; without unet (" in plan
    assert "zero-element" not in " ".join(str(one.message) for one in warned)


def _plan(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr(sys, "argv", ["noisesmith", "plan", str(path)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    return " ".join(capsys.readouterr().out.split())
