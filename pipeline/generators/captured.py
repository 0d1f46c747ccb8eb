"""Families whose z_0 is what the pipeline hands to its VAE, so that unpacking and scaling are the pipeline's own."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from noisesmith.pipeline.config import GeneratorConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.generators.adapter import Adapter, FoundGenerator
from noisesmith.pipeline.generators.affine import Selection, find_selection
from noisesmith.pipeline.generators.base import LatentSpec
from noisesmith.pipeline.generators.capture import handed_to
from noisesmith.pipeline.generators.pausing import stopped
from noisesmith.pipeline.generators.rehearsal import Rehearsal
from noisesmith.pipeline.generators.weightless import model_parts, part_without_weights
from noisesmith.pipeline.models.libraries import Options, Tokenizer
from noisesmith.pipeline.text.limits import TextLimit

if TYPE_CHECKING:
    from torch import Tensor

MARK = "\N{OBJECT REPLACEMENT CHARACTER}"  # where the words of a user are
# Options of pipelines, on by default, that make an image of another size than asked for, or of another prompt.
_REWRITING = ("use_resolution_binning", "clean_caption")


class CapturedAdapter(Adapter):
    """A pipeline that samples from given latents and hands the result to its VAE, in any layout and scale.

    How z_0 follows z_T is measured on the pipeline itself (:mod:`.affine`), without its weights.
    """

    denoiser = "transformer"
    flow = True
    multiple = 1
    own_options = ("max_sequence_length",)
    captured = True

    def __init__(self, found: FoundGenerator, device: str) -> None:
        super().__init__(found, device)
        self._selections: dict[tuple[int, int | None, LatentSpec], Selection] = {}

    @classmethod
    def without(cls, config: GeneratorConfig) -> Options:
        taken = call_defaults(cls.pipeline_class, "__init__")
        dropped = super().without(config) | {"safety_checker": None, "requires_safety_checker": False}
        return {name: value for name, value in dropped.items() if name in taken}

    @classmethod
    def call_options(cls, config: GeneratorConfig, rows: int) -> Options:
        taken = call_defaults(cls.pipeline_class, "__call__")
        options: Options = {name: False for name in _REWRITING if name in taken}
        options |= super().call_options(config, rows)
        if options["negative_prompt"] is None:
            del options["negative_prompt"]
        if config.max_sequence_length:
            options["max_sequence_length"] = config.max_sequence_length
        return options

    @classmethod
    def text_length(cls, config: GeneratorConfig) -> int:
        """Tokens that the pipeline reads of a prompt, where it is not CLIP's tokenizer that says it."""
        default: int = call_defaults(cls.pipeline_class, "__call__")["max_sequence_length"]
        return config.max_sequence_length or default

    @classmethod
    def own_limits(cls, config: GeneratorConfig) -> dict[str, int]:
        return {"text_encoder": cls.text_length(config)}

    @classmethod
    def prefix(cls, tokenizer: Tokenizer) -> tuple[str, int]:
        """The text that the pipeline puts before a prompt, and by how many tokens that raises the encoder's limit."""
        return "", 0

    @classmethod
    def text_limits(cls, tokenizers: Mapping[str, Tokenizer], config: GeneratorConfig) -> list[TextLimit]:
        limits = []
        for limit in super().text_limits(tokenizers, config):
            text, more = cls.prefix(limit.tokenizer)
            tokens = None if limit.tokens is None else limit.tokens + more
            limits.append(replace(limit, template=f"{text}{{prompt}}", tokens=tokens, lowers=cls.lowers()))
        return limits

    @classmethod
    def lowers(cls) -> bool:
        """Whether the pipeline reads prompts in lower case: those do that have this method."""
        import diffusers

        return hasattr(getattr(diffusers, cls.pipeline_class), "_text_preprocessing")

    def plain(self, text: str) -> str:
        return super().plain(text.lower() if self.lowers() else text)

    def pull_back(self, slope: Tensor, steps: int, stop: int | None = None) -> Tensor:
        key = (steps, stop, self.spec)
        if key not in self._selections:
            self._selections[key] = self._measure(steps, stop)
        return self._selections[key].pull_back(slope)

    def gain(self, steps: int, stop: int | None = None) -> float:
        return 1.0

    def _denoise(self, options: Options) -> Tensor:
        with handed_to(self.pipe.vae) as handed:
            self.pipe(**options, output_type="pt")
        return handed[0]

    def _measure(self, steps: int, stop: int | None) -> Selection:
        models = {name: part_without_weights(self._found, name, "float32") for name in model_parts(self._found)}
        # A VAE's buffers are statistics, by which a pipeline may scale its latents.
        for name, buffer in self.pipe.vae.named_buffers():
            owner, _, attribute = name.rpartition(".")
            setattr(models["vae"].get_submodule(owner), attribute, buffer.float().cpu())
        return measured_selection(Rehearsal(self._found, models), self._found, self.spec, steps, stop)


class PackedAdapter(CapturedAdapter):
    """Latents are packed: a token has the channels of 2×2 cells."""

    patch = 2
    features = 1
    sample_size = 128

    @classmethod
    def noise_shape(cls, channels: int, rows: int, columns: int) -> tuple[int, ...]:
        return (rows // 2 * (columns // 2), channels * 4)


def turn_before(tokenizer: Tokenizer, *, enable_thinking: bool) -> str:
    """What a chat template puts before the words of a user."""
    turn = [{"role": "user", "content": MARK}]
    return text_before(tokenizer, turn, add_generation_prompt=True, enable_thinking=enable_thinking)


def text_before(tokenizer: Tokenizer, messages: Sequence[Options], **options: object) -> str:
    """What a chat template puts before :data:`MARK` in messages."""
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, **options)
    return text.split(MARK)[0]


def measured_selection(
    rehearsal: Rehearsal, found: FoundGenerator, spec: LatentSpec, steps: int, stop: int | None = None
) -> Selection:
    """How z_0 of a pipeline follows its z_T, or the x_0 that it predicts after ``stop`` steps, for images of one size.

    Raises:
        UserError: not number by number.
    """

    def run(noise: Tensor) -> Tensor:
        until = nullcontext() if stop is None else stopped(rehearsal.pipe, steps, stop)
        with until:
            return rehearsal.follow(["a cat"], steps, spec, noise[None])[0]

    selection = find_selection(run, spec.shape)
    if selection is None:
        source = found.source
        raise UserError(
            f"{source.field}: with {source.id!r} (a {source.class_name}) the image does not follow the initial noise "
            "number by number, so that no gradient of the score reaches the noise; use random_sampling or "
            "random_diffusion"
        )
    return selection


def call_defaults(pipeline_class: str, method: str) -> dict[str, Any]:
    """The parameters of a method of a ``diffusers`` pipeline, with their defaults."""
    import diffusers

    parameters = inspect.signature(getattr(getattr(diffusers, pipeline_class), method)).parameters
    return {name: parameter.default for name, parameter in parameters.items()}
