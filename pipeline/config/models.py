"""The models of a run: generator, scorer, judges."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator, model_validator

from noisesmith.pipeline.config.calibration import CalibrationConfig
from noisesmith.pipeline.config.corpus import MAX_SIDE, MIN_SIDE, Resolution
from noisesmith.pipeline.config.section import Actors, ColumnName, Section

STOCHASTIC = (
    "euler_a", "euler_ancestral", "ddpm", "tcd", "dpmsolver_sde", "sde-dpmsolver++", "dpm2_a", "dpm2_ancestral",
    "dpmsolver++_sde", "unclip",
)  # fmt: skip
Quantization = Annotated[
    Literal["torchao-int8", "torchao-float8", "bitsandbytes-nf4"] | None,
    Field(description="how the weights of linear layers are stored: in 8 or 4 bits; in dtype when absent"),
]
Side = Annotated[int, Field(ge=MIN_SIDE, le=MAX_SIDE)]
QUESTION = 'Does this figure show "{prompt}"? Please answer yes or no.'


class LoraConfig(Section):
    """Low-rank weight changes (LoRA) that are added to the model's weights when it is loaded."""

    path: str = Field(min_length=1, description="a local .safetensors file, in any format that diffusers reads")
    scale: float = Field(1.0, description="factor on the change; 1 is the strength it was trained for")


class SkipLayerConfig(Section):
    """Skip-layer guidance: away from what the transformer predicts without some of its layers."""

    layers: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        min_length=1, description="numbers of the layers that are left out, such as [7, 8, 9]"
    )
    scale: float = Field(2.8, gt=0, description="weight of the difference")
    start: float = Field(0.01, ge=0, le=1, description="share of the steps before the first that is guided so")
    stop: float = Field(0.2, ge=0, le=1, description="share of the steps before the first that is no longer guided so")


class GeneratorConfig(Actors):
    """The frozen diffusion model, its sampler, and the actors that hold it."""

    model: str = Field(
        "embedded",
        min_length=1,
        description="embedded, embedded/v1, a local folder, a Hub id, or one .safetensors file",
    )
    revision: str | None = None
    config: str | None = Field(
        None, min_length=1, description="folder or Hub id with the JSON files that a single-file model lacks"
    )
    variant: str | None = Field(
        None, pattern=r"^[A-Za-z0-9_]+$", description="variant of the weight files to load, such as fp16"
    )
    allow_pickle: bool = Field(False, description="also load pickled weights, which can run any code")
    lora: tuple[LoraConfig, ...] = Field((), description="LoRAs merged into the weights, in this order; needs peft")
    scheduler: Literal["ddim", "pndm", "dpmsolver++", "euler", "flow_euler", "lcm", "scm"] = "ddim"
    timestep_spacing: Literal["leading", "trailing", "linspace"] | None = Field(
        None, description="which timesteps are used; the model's own setting when absent; few-step models need trailing"
    )
    steps: int = Field(50, ge=1, le=1000, description="denoising steps T")
    guidance_scale: float = Field(7.5, ge=0, description="weight of the prompt; 1 or less turns guidance off")
    negative_prompt: str = ""
    skip_layer_guidance: SkipLayerConfig | None = Field(
        None, description="Stable Diffusion 3.5 only; no skip-layer guidance when absent"
    )
    max_sequence_length: int | None = Field(
        None, ge=1, le=512,
        description="tokens that a text encoder other than CLIP reads; the library's default when absent, and 256 for "
        "Stable Diffusion 3",
    )  # fmt: skip
    max_prompt_tokens: Literal["cut", "refuse"] = Field(
        "cut", description="a prompt that is longer than the text encoders read is cut there, or refused"
    )
    drop_t5: bool = Field(
        False, description="run Stable Diffusion 3 without its T5 encoder: about 10 GB less, but long prompts suffer"
    )
    height: int | None = Field(None, ge=8, description="pixels; the model's own size when absent")
    width: int | None = Field(None, ge=8, description="pixels; the model's own size when absent")
    buckets: tuple[tuple[Side, Side], ...] | None = Field(
        None,
        min_length=1,
        description="sizes [width, height]; a row with a corpus.resolution gets the one of the closest aspect ratio",
    )
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    quantization: Quantization = None
    quantized_parts: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="folders of the parts that are quantised, such as transformer and text_encoder_2; the denoiser and "
        "all text encoders when absent",
    )
    safety_checker: Literal[False] = Field(
        False, description="Stable Diffusion 1.x's image filter is never loaded; filter the finished dataset instead"
    )
    attention: Literal["sdpa", "sliced"] = Field(
        "sdpa", description="torch's fused attention, or slices, which need less memory and more time"
    )
    vae_slicing: bool = Field(False, description="decode the images of a batch one by one, for less memory")
    vae_tiling: bool = Field(False, description="decode large images in blended tiles; changes their pixels slightly")
    vae_checkpointing: bool = Field(
        False, description="compute the VAE's activations again for the gradient: far less memory, more time"
    )
    compile: bool = Field(False, description="torch.compile the U-Net or transformer; pays off over many batches")
    cpu_offload: bool = Field(False, description="keep only the part of the model that works on the GPU")

    @field_validator("scheduler", mode="before")
    @classmethod
    def _deterministic(cls, value: object) -> object:
        if value in STOCHASTIC:
            raise ValueError(
                f"{value} draws fresh noise at every step, so the image would not follow from z_T; "
                "use ddim, pndm, dpmsolver++, euler, or flow_euler for a flow-matching model"
            )
        return value

    @field_validator("buckets")
    @classmethod
    def _buckets_once(cls, value: tuple[Resolution, ...] | None) -> tuple[Resolution, ...] | None:
        for number, bucket in enumerate(value or ()):
            if bucket in (value or ())[:number]:
                raise ValueError(f"lists {list(bucket)} twice; remove one")
        return value

    @field_validator("safety_checker", mode="before")
    @classmethod
    def _no_safety_checker(cls, value: object) -> object:
        if value is True:
            raise ValueError("a blacked-out image cannot be searched, so the checker is never loaded; set it to false")
        return value

    @model_validator(mode="after")
    def _parts_are_quantized_somehow(self) -> GeneratorConfig:
        if self.quantized_parts is not None and self.quantization is None:
            raise ValueError("quantized_parts: needs quantization, such as torchao-int8; set it, or remove this field")
        return self


def _variable_name(value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        raise ValueError("must be the name of an environment variable such as OPENAI_API_KEY, and not the key itself")
    return value


def is_url(model: str) -> bool:
    """Return whether a model is served over HTTP, and not loaded here."""
    return model.startswith(("http://", "https://"))


def check_server(
    model: str, server_model: str | None, api_key_env: str | None, quantization: str | None = None
) -> None:
    """Refuse the fields of a server where the model is none, a URL with more in it than an address, and quantisation.

    Raises:
        ValueError: one of these.
    """
    if not is_url(model):
        for name, value in (("server_model", server_model), ("api_key_env", api_key_env)):
            if value is not None:
                raise ValueError(f"{name} is for a server; give model its URL, such as http://host:8000/v1")
        return
    parts = urlsplit(model)
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment or not parts.hostname:
        raise ValueError("the URL of model must be plain, such as http://host:8000/v1; name a key with api_key_env")
    if quantization is not None:
        raise ValueError("quantization: a server stores its model's weights as it was started; remove it")


ServerModel = Annotated[
    str | None, Field(description="the model's name at the server; the server's only model when absent")
]
ApiKeyEnv = Annotated[
    str | None,
    AfterValidator(_variable_name),
    Field(description="environment variable that holds the server's key on the machines of the scorers"),
]


class ScorerConfig(Actors):
    """The frozen vision-language model whose score guides the search, and the actors that hold it."""

    model: str = Field(
        "embedded",
        min_length=1,
        description="embedded, embedded/qwen, embedded/v1, a local folder, a Hub id, or a server's URL",
    )
    revision: str | None = None
    server_model: ServerModel = None
    api_key_env: ApiKeyEnv = None
    question: str = Field(QUESTION, description="template with {prompt}")
    asks: Literal["prompt", "questions"] | None = Field(
        None,
        description="prompt (when absent): whether the image shows the whole prompt; or the questions about its parts",
    )
    hint: str | None = Field(
        None, min_length=1, description="appended to each question about a part, such as: Answer in one word."
    )
    readout: Literal["yes", "yes_no", "reference", "caption", "contrastive", "rating"] = Field(
        "yes",
        description="P(yes) of all tokens, P(yes) of yes and no alone, the official implementation's value, the "
        "likelihood of the prompt as a caption, P(yes) against edits of the prompt, or the rating by UnifiedReward 2.0",
    )
    calibration: CalibrationConfig | None = Field(
        None, description="map from the model's scores to probabilities; its scores as they are when absent"
    )
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    quantization: Quantization = None
    allow_pickle: bool = Field(False, description="read pickled weights (.bin, .pt) where there are no safetensors")
    allow_code: bool = Field(False, description="let model name a class, package.module:Class, whose code is run")

    @field_validator("question")
    @classmethod
    def _has_prompt(cls, value: str) -> str:
        if "{prompt}" not in value:
            raise ValueError("must contain {prompt}, the place of the row's prompt")
        return value

    @field_validator("readout", mode="before")
    @classmethod
    def _yaml_reads_yes_as_true(cls, value: object) -> object:
        return "yes" if value is True else value

    @property
    def asked(self) -> str:
        """What the model is asked, as the dataset card says it."""
        if self.asks == "questions":
            return "questions of each row about the parts of its prompt" + (f", and: {self.hint}" if self.hint else "")
        if self.readout == "rating":
            return "the instruction of UnifiedReward 2.0"
        return "what the image shows" if self.readout == "caption" else self.question

    @property
    def section(self) -> str:
        """The name of this section in messages."""
        return "scorers"

    @model_validator(mode="after")
    def _asked_in_a_way_that_fits(self) -> ScorerConfig:
        if self.asks == "questions" and self.readout not in ("yes", "yes_no"):
            raise ValueError(
                f"readout {self.readout} reads the answer about a whole prompt; use yes or yes_no with asks: questions"
            )
        if self.readout == "rating" and self.question != QUESTION:
            raise ValueError("readout rating asks as UnifiedReward was trained to be asked; remove question")
        if self.asks != "questions" and self.hint is not None:
            raise ValueError("hint is appended to questions about parts of a prompt; set asks: questions, or remove it")
        return self

    @model_validator(mode="after")
    def _server_fields(self) -> ScorerConfig:
        check_server(self.model, self.server_model, self.api_key_env, self.quantization)
        return self


class JudgeConfig(Section):
    """A scorer that does not guide the search: it scores the first and the kept image of each row."""

    name: ColumnName = Field(description="gives the columns judge_NAME and judge_NAME_initial their names")
    model: str = Field(
        min_length=1, description="embedded/judge, embedded/detector, embedded/v1/judge, or any scorer model"
    )
    revision: str | None = None
    server_model: ServerModel = None
    api_key_env: ApiKeyEnv = None
    quantization: Quantization = None
    readout: Literal["rating"] | None = Field(
        None, description="rating by UnifiedReward 2.0; when absent as the scorers' readout, where a judge has it"
    )

    @model_validator(mode="after")
    def _server_fields(self) -> JudgeConfig:
        check_server(self.model, self.server_model, self.api_key_env, self.quantization)
        return self
