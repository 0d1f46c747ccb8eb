"""Text conditioning is computed once per prompt, equals the pipeline's own, and takes a bounded amount of memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from noisesmith.pipeline.config import GeneratorConfig
from noisesmith.pipeline.generators import find_generator, load_generator
from noisesmith.pipeline.generators.conditioning import RememberedText, join_padded, join_rows
from tests.tiny_pipelines import PIPELINES

CPU = torch.device("cpu")


class Encoder:
    """Stands for ``encode_prompt``: embeddings ``[B, 4, 8]``, those of the negative prompt, and ids without a batch."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def encode(
        self,
        prompt: list[str],
        device: torch.device | None = None,
        negative_prompt: list[str] | str = "",
        hints: Any = (),
    ) -> tuple[Tensor | None, ...]:
        self.asked.append(prompt)
        negatives = [negative_prompt] * len(prompt) if isinstance(negative_prompt, str) else negative_prompt
        return self._embed(prompt), self._embed(negatives), torch.arange(3), None

    def _embed(self, texts: list[str]) -> Tensor:
        return torch.tensor([len(text) for text in texts]).float()[:, None, None].expand(-1, 4, 8).clone()


def test_each_prompt_is_encoded_once_and_alone() -> None:
    encoder = Encoder()
    remembered = RememberedText(encoder.encode, join_rows)
    first = remembered(["a", "cat"], CPU, negative_prompt=["no", "no"])
    again = remembered(prompt=["cat", "a"], device=CPU, negative_prompt=["no", "no"])
    assert encoder.asked == [["a"], ["cat"]]
    torch.testing.assert_close(first, encoder.encode(["a", "cat"], CPU, ["no", "no"]), rtol=0, atol=0)
    torch.testing.assert_close(again, encoder.encode(["cat", "a"], CPU, ["no", "no"]), rtol=0, atol=0)


def test_what_changes_the_embeddings_is_told_apart() -> None:
    encoder = Encoder()
    remembered = RememberedText(encoder.encode, join_rows)
    remembered(["a"], CPU, negative_prompt=["no"])
    _, negative, *_ = remembered(["a"], CPU, negative_prompt=["never"])
    remembered(["a"], CPU, negative_prompt=["no"], hints=["one"])
    assert len(encoder.asked) == 3
    assert isinstance(negative, Tensor)
    assert float(negative.mean()) == len("never")


def test_embeddings_that_are_given_pass_through() -> None:
    given = torch.ones(1)
    remembered = RememberedText(lambda prompt=None, device=None, prompt_embeds=None: (prompt_embeds,), join_rows)
    assert remembered(device=CPU, prompt_embeds=given)[0] is given
    assert remembered.held == 0


def test_memory_is_bounded_and_the_negative_prompt_is_held_once() -> None:
    encoder = Encoder()
    row = 4 * 8 * 4
    ids = 3 * 8
    remembered = RememberedText(encoder.encode, join_rows, most_bytes=4 * row + ids)
    for prompt in ("a", "bb", "ccc"):
        remembered([prompt], CPU, negative_prompt="nothing")
    assert remembered.held == 3 * row + row + ids
    remembered(["a"], CPU, negative_prompt="nothing")  # the last used is the last to go
    remembered(["dddd"], CPU, negative_prompt="nothing")
    assert remembered.held == 4 * row + ids
    asked = len(encoder.asked)
    remembered(["a", "ccc", "dddd"], CPU, negative_prompt="nothing")
    assert len(encoder.asked) == asked
    remembered(["bb"], CPU, negative_prompt="nothing")
    assert len(encoder.asked) == asked + 1


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_a_text_encoder_reads_a_prompt_once_however_many_rounds_there_are(tiny_sd: Path, guidance: float) -> None:
    generator: Any = load_generator(find_generator(GeneratorConfig(model=str(tiny_sd), guidance_scale=guidance)), "cpu")
    passes = []
    generator.pipe.text_encoder.register_forward_hook(lambda *_: passes.append(1))
    noise = torch.randn(3, *generator.spec.shape, generator=torch.Generator().manual_seed(0))
    made = [generator.sample(["a cat", "a dog", "a cat"], noise, 2) for _ in range(3)]
    assert len(passes) == 2 * (2 if guidance > 1 else 1)
    assert torch.equal(made[0], made[2])


def _generator(folder: Path, options: Mapping[str, Any]) -> Any:
    config = GeneratorConfig(**{"model": str(folder), "steps": 2, **options})
    return load_generator(find_generator(config), "cpu")


def _encodings(generator: Any) -> list[int]:
    """Appended to whenever the pipeline's first text encoder runs."""
    passes: list[int] = []
    generator.pipe.text_encoder.register_forward_hook(lambda *_: passes.append(1))
    return passes


@pytest.mark.parametrize("name", PIPELINES)
def test_every_family_encodes_a_prompt_once_and_makes_the_same_latents(name: str, folders: Mapping[str, Path]) -> None:
    """Bit for bit, against the pipeline's own method: one row at a time, as it then encodes one prompt too."""
    generator = _generator(folders[name], PIPELINES[name].options)
    own = generator.pipe.encode_prompt.__wrapped__
    steps = generator.config.steps
    noise = torch.randn(2, *generator.spec.shape, generator=torch.Generator().manual_seed(0))
    prompts = ["a cat and a red car", "a dog"]
    passes = _encodings(generator)

    def alone() -> list[Tensor]:
        return [generator.sample([prompt], noise[[row]], steps) for row, prompt in enumerate(prompts)]

    first = alone()
    encoded = len(passes)
    again = alone()
    both = generator.sample(prompts, noise, steps)
    assert len(passes) == encoded
    generator.pipe.encode_prompt = own
    for one, two, without in zip(first, again, alone(), strict=True):
        assert torch.equal(one, without)
        assert torch.equal(two, without)
    assert len(passes) >= 2 * encoded  # a negative prompt that the pipeline encodes apart is encoded again per row
    torch.testing.assert_close(both, generator.sample(prompts, noise, steps), rtol=1e-3, atol=1e-3)


def test_shorter_prompts_are_padded_as_the_library_pads_them() -> None:
    long, short = torch.randn(1, 5, 3), torch.randn(1, 2, 3)
    embeddings, mask = join_padded([(long, None), (short, None)])
    assert isinstance(embeddings, Tensor)
    assert torch.equal(embeddings[0], long[0])
    assert torch.equal(embeddings[1], torch.cat([short[0], torch.zeros(3, 3)]))
    assert isinstance(mask, Tensor)
    assert mask.tolist() == [[1] * 5, [1, 1, 0, 0, 0]]
    assert join_padded([(long, None), (long, None)])[1] is None
