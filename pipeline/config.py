"""The configuration of one run: YAML plus dotted overrides, checked before anything is loaded.

Fields that decide *what* is made (models, method, seed, corpus, shard size) enter :meth:`RunConfig.digest`; those that
only decide *where* and *how fast* it is made (:data:`OPERATIONAL`) may change between a run and its resume.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pipeline.config_errors import sentence
from pipeline.errors import UserError
from pipeline.stores import to_path

STOCHASTIC = (
    "euler_a", "euler_ancestral", "ddpm", "tcd", "dpmsolver_sde", "sde-dpmsolver++", "dpm2_a", "dpm2_ancestral",
    "dpmsolver++_sde", "unclip",
)  # fmt: skip
QUESTION = 'Does this figure show "{prompt}"? Please answer yes or no.'


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _can_be_written(cls, fields: Any) -> Any:
        for name, value in fields.items() if isinstance(fields, dict) else ():
            if isinstance(value, int) and value.bit_length() > 63:
                raise ValueError(f"{name} is an integer beyond 64 bits; give a smaller one")
            if isinstance(value, str) and re.search("[\ud800-\udfff]", value):
                raise ValueError(f"{name} holds half a surrogate pair, which is not valid Unicode; remove it")
        return fields


class CorpusConfig(_Section):
    """Where prompts come from: a file, a ``datasets`` name or directory, or a built-in grammar."""

    source: str = Field(min_length=1, description="path, dataset name, or embedded/simple, embedded/complex")
    size: int | None = Field(None, ge=1, le=100_000_000, description="rows to take; required for grammars")
    seed: int = Field(0, ge=0, description="seed of a grammar")
    column: str = Field("prompt", min_length=1, description="column that holds the prompt")
    subjects: str | None = Field(
        None, min_length=1, description="column that lists the prompt's subjects; found in the prompt when absent"
    )
    split: str = Field("train", min_length=1, description="split of a datasets source")
    revision: str | None = Field(None, description="revision of a datasets source")

    @model_validator(mode="after")
    def _grammar_has_size(self) -> CorpusConfig:
        if self.source.startswith("embedded/") and self.size is None:
            raise ValueError(f"{self.source} is endless, so it needs a size such as size: 100")
        return self


class _Actors(_Section):
    """How many actors, and what each holds."""

    count: int = Field(1, ge=1, le=4096)
    num_gpus: float = Field(0, ge=0, description="GPUs an actor holds; fractions share a GPU")
    num_cpus: float = Field(1, gt=0, description="CPU cores an actor holds; also its torch threads, one at least")
    batch_size: int = Field(8, ge=1, le=4096)


class LoraConfig(_Section):
    """Low-rank changes that are added to the model's weights when it is loaded."""

    path: str = Field(min_length=1, description="a .safetensors file here, in any format diffusers reads")
    scale: float = Field(1.0, description="factor on the change; 1 is what it was trained for")


class GeneratorConfig(_Actors):
    """The frozen diffusion model, its sampler, and the actors that hold it."""

    model: str = Field(
        "embedded", min_length=1, description="embedded, a local folder, a Hub id, or one .safetensors file"
    )
    revision: str | None = None
    config: str | None = Field(
        None, min_length=1, description="folder or Hub id with the JSON files that a single-file model lacks"
    )
    variant: str | None = Field(None, pattern=r"^[A-Za-z0-9_]+$", description="weight files to take, such as fp16")
    allow_pickle: bool = Field(False, description="also load pickled weights, which can run code of their own")
    lora: tuple[LoraConfig, ...] = Field((), description="LoRAs merged into the weights, in this order; needs peft")
    scheduler: Literal["ddim", "pndm", "dpmsolver++", "euler", "flow_euler", "lcm"] = "ddim"
    timestep_spacing: Literal["leading", "trailing", "linspace"] | None = Field(
        None, description="where the steps lie; the model's own when absent, few-step models need trailing"
    )
    steps: int = Field(50, ge=1, le=1000, description="denoising steps T")
    guidance_scale: float = Field(7.5, ge=0, description="weight of the prompt; 1 or less turns guidance off")
    negative_prompt: str = ""
    max_sequence_length: int | None = Field(
        None, ge=1, le=512, description="tokens of Stable Diffusion 3's T5 encoder; 256 when absent"
    )
    drop_t5: bool = Field(
        False, description="run Stable Diffusion 3 without its T5 encoder: about 10 GB less, but long prompts suffer"
    )
    height: int | None = Field(None, ge=8, description="pixels; the model's own size when absent")
    width: int | None = Field(None, ge=8, description="pixels; the model's own size when absent")
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    safety_checker: Literal[False] = Field(
        False, description="Stable Diffusion 1.x's image filter is never loaded; filter the finished dataset instead"
    )
    attention: Literal["sdpa", "sliced"] = Field(
        "sdpa", description="torch's fused attention, or slices that need less memory and more time"
    )
    vae_slicing: bool = Field(False, description="decode the images of a batch one by one, for less memory")
    vae_tiling: bool = Field(False, description="decode large images in blended tiles; changes their pixels slightly")
    compile: bool = Field(False, description="torch.compile the U-Net or transformer; pays off over many batches")
    cpu_offload: bool = Field(False, description="keep on the GPU only the part of the model at work")

    @field_validator("scheduler", mode="before")
    @classmethod
    def _deterministic(cls, value: Any) -> Any:
        if value in STOCHASTIC:
            raise ValueError(
                f"{value} draws fresh noise at every step, so the image would not follow from z_T; "
                "use ddim, pndm, dpmsolver++, euler, or flow_euler for a flow-matching model"
            )
        return value

    @field_validator("safety_checker", mode="before")
    @classmethod
    def _no_safety_checker(cls, value: Any) -> Any:
        if value is True:
            raise ValueError("a blacked-out image cannot be searched, so the checker is never loaded; set it to false")
        return value


def _variable_name(value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        raise ValueError("must be the name of an environment variable such as OPENAI_API_KEY, and not the key itself")
    return value


def is_url(model: str) -> bool:
    """Whether a model is served over HTTP and not loaded here."""
    return model.startswith(("http://", "https://"))


def _check_server(model: str, server_model: str | None, api_key_env: str | None) -> None:
    if not is_url(model):
        for name, value in (("server_model", server_model), ("api_key_env", api_key_env)):
            if value is not None:
                raise ValueError(f"{name} is for a server; give model its URL, such as http://host:8000/v1")
        return
    parts = urlsplit(model)
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment or not parts.hostname:
        raise ValueError("the URL of model must be plain, such as http://host:8000/v1; name a key with api_key_env")


ServerModel = Annotated[str | None, Field(description="name a server serves the model by; its only one when absent")]
ApiKeyEnv = Annotated[
    str | None,
    AfterValidator(_variable_name),
    Field(description="environment variable that holds a server's key, where the scorers run"),
]


class ScorerConfig(_Actors):
    """The frozen vision-language model that steers, and the actors that hold it."""

    model: str = Field("embedded", min_length=1, description="embedded, a local folder, a Hub id, or a server's URL")
    revision: str | None = None
    server_model: ServerModel = None
    api_key_env: ApiKeyEnv = None
    question: str = Field(QUESTION, description="template with {prompt}")
    readout: Literal["yes", "yes_no", "reference"] = Field(
        "yes", description="P(yes), P(yes) against no alone, or the official implementation's figure"
    )
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    allow_pickle: bool = Field(False, description="read pickled weights (.bin) where a model has no safetensors")

    @field_validator("question")
    @classmethod
    def _has_prompt(cls, value: str) -> str:
        if "{prompt}" not in value:
            raise ValueError("must contain {prompt}, the place of the row's prompt")
        return value

    @field_validator("readout", mode="before")
    @classmethod
    def _yaml_reads_yes_as_true(cls, value: Any) -> Any:
        return "yes" if value is True else value

    @model_validator(mode="after")
    def _server_fields(self) -> ScorerConfig:
        _check_server(self.model, self.server_model, self.api_key_env)
        return self


class JudgeConfig(_Section):
    """A scorer that never steers: it looks at the first and the kept image of each row."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$", description="names the columns judge_NAME, judge_NAME_initial")
    model: str = Field(min_length=1, description="embedded/judge, or any scorer model")
    revision: str | None = None
    server_model: ServerModel = None
    api_key_env: ApiKeyEnv = None

    @model_validator(mode="after")
    def _server_fields(self) -> JudgeConfig:
        _check_server(self.model, self.server_model, self.api_key_env)
        return self


class PreviewConfig(_Section):
    """Cheap early rounds: few sampler steps while searching, the best of them made again at full T."""

    steps: int = Field(ge=1, le=1000, description="sampler steps of a search round; the first image has full T")
    keep: int = Field(1, ge=1, le=64, description="best previews to make again at full T, scored anew")


class _Optimizer(_Section):
    rounds: int = Field(50, ge=0, le=100_000, description="search rounds M after the first image")
    target_score: float | None = Field(None, gt=0, le=1, description="stop a row at this score")
    patience: int | None = Field(None, ge=1, description="stop a row after this many rounds without a better score")
    unet_evaluations: int | None = Field(None, ge=1, description="denoising steps a row may take, first image included")
    preview: PreviewConfig | None = None

    @property
    def folds(self) -> bool:
        """Whether a recipe of (round, γ, index) rebuilds z_T; where not, the noise itself is stored."""
        return True

    @property
    def reads_attention(self) -> bool:
        """Whether it looks for the prompt's subjects in the generator's attention."""
        return False


class _Walk(_Optimizer):
    """A method whose next noise is a step from one before."""

    move_from: Literal["latest", "best"] = Field("latest", description="the noise a round moves away from")


class NoneConfig(_Optimizer):
    """The first image alone."""

    method: Literal["none"] = "none"
    rounds: Literal[0] = 0
    preview: None = None


class RandomSamplingConfig(_Optimizer):
    """A fresh z_T each round."""

    method: Literal["random_sampling"] = "random_sampling"


class RandomDiffusionConfig(_Walk):
    """Adaptive step, one random candidate, no gradient (ablation in arXiv 2411.16503)."""

    method: Literal["random_diffusion"] = "random_diffusion"


class NoiseDiffusionConfig(_Walk):
    """Adaptive step, gradient-selected candidate (arXiv 2411.16503)."""

    method: Literal["noise_diffusion"] = "noise_diffusion"
    candidates: int = Field(50, ge=1, le=1_000_000, description="candidate noises N a round")
    selection: Literal["candidates", "order_statistic"] = Field(
        "candidates", description="draw N and select, or draw the selected one's law"
    )

    @property
    def folds(self) -> bool:
        return self.selection == "candidates"


class PgdConfig(_Walk):
    """Projected gradient ascent on z_T (ablation in arXiv 2411.16503)."""

    method: Literal["pgd"] = "pgd"
    step: float = Field(0.1, gt=0, description="η; in units of √D along the unit gradient when normalize is set")
    normalize: bool = Field(True, description="step along ∇s/‖∇s‖ instead of ∇s")
    norm_bound: float | None = Field(None, gt=0, description="largest ‖z_T‖/√D; no bound when absent")

    @property
    def folds(self) -> bool:
        return False


class MeanVarianceConfig(_Optimizer):
    """Element-wise μ and log σ² of the noise, Adam on the score (ablation in arXiv 2411.16503)."""

    method: Literal["mean_variance"] = "mean_variance"
    learning_rate: float = Field(0.01, gt=0)
    kl_bound: float = Field(1e-3, gt=0, description="largest mean KL divergence of N(μ, σ²) from N(0, 1), in nats")

    @property
    def folds(self) -> bool:
        return False


class _Attention(_Optimizer):
    """A method that reads the U-Net's attention to the prompt's subjects."""

    attention_size: int | None = Field(
        None, ge=2, description="side of the attention maps; 16, or the U-Net's largest below, when absent"
    )

    @property
    def reads_attention(self) -> bool:
        return True


class InitNoConfig(_Attention):
    """Initial noise by cross-attention response and self-attention conflict (Guo et al., CVPR 2024)."""

    method: Literal["initno"] = "initno"
    steps: int = Field(10, ge=1, le=1000, description="Adam steps on μ and log σ² a restart")
    restarts: int = Field(5, ge=1, le=100, description="fresh noises tried until both thresholds are met")
    learning_rate: float = Field(0.01, gt=0)
    kl_bound: float = Field(1e-3, gt=0, description="largest mean KL divergence of N(μ, σ²) from N(0, 1), in nats")
    response_threshold: float = Field(0.2, gt=0, le=1, description="cross-attention response loss to reach")
    conflict_threshold: float = Field(0.3, gt=0, le=1, description="self-attention conflict loss to reach")

    @property
    def folds(self) -> bool:
        return False


class AttendAndExciteConfig(_Attention):
    """Latent updates by attention during sampling (Chefer et al., SIGGRAPH 2023)."""

    method: Literal["attend_and_excite"] = "attend_and_excite"
    step: float = Field(20.0, gt=0, description="scale of a latent update; it falls with the square root of the time")
    until: float = Field(0.5, gt=0, le=1, description="share of the sampler steps that update")
    thresholds: dict[float, float] = Field(
        {0.0: 0.05, 0.2: 0.5, 0.4: 0.8}, description="share of the steps → attention every subject must reach there"
    )
    refinements: int = Field(20, ge=1, le=200, description="updates at most where a threshold is not reached")

    @field_validator("thresholds")
    @classmethod
    def _shares_and_attention(cls, value: dict[float, float]) -> dict[float, float]:
        for share, attention in value.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{share:g} is no share of the sampler steps; give keys from 0 to 1")
            if not 0 < attention <= 1:
                raise ValueError(
                    f"{attention:g} at {share:g} is no attention to reach; give values above 0 and up to 1"
                )
        return value


OptimizerConfig = Annotated[
    NoneConfig
    | RandomSamplingConfig
    | RandomDiffusionConfig
    | NoiseDiffusionConfig
    | PgdConfig
    | MeanVarianceConfig
    | InitNoConfig
    | AttendAndExciteConfig,
    Field(discriminator="method"),
]
METHODS = tuple(method.model_fields["method"].default for method in get_args(get_args(OptimizerConfig)[0]))


class OutputConfig(_Section):
    """What is written, and where."""

    dir: str | None = Field(
        None, description="run directory, or its URL in a store such as s3://bucket/my-run; runs/NAME when absent"
    )
    formats: tuple[Literal["parquet", "webdataset"], ...] = ("parquet", "webdataset")
    rows_per_shard: int = Field(1000, ge=1, le=1_000_000)
    image_initial: bool = Field(True, description="keep the first image beside the best one")
    noise: bool = Field(True, description="keep the noise itself (fp16) where no recipe can rebuild it")

    @field_validator("dir")
    @classmethod
    def _known_place(cls, value: str | None) -> str | None:
        to_path(value or "")
        return value

    @field_validator("formats")
    @classmethod
    def _formats_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError("list parquet, webdataset or both, each once")
        return value


class RayConfig(_Section):
    """Which Ray cluster to use."""

    address: str | None = Field(None, description="auto, HOST:PORT, ray://…; absent starts a local cluster")
    metrics_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="Prometheus port of a local cluster, on 127.0.0.1; absent takes a free one",
    )


class FaultsConfig(_Section):
    """What a run bears before it gives up a row, or itself."""

    retries: int = Field(2, ge=0, le=100, description="attempts after the first before a row is a dead letter")
    backoff_seconds: float = Field(
        1.0, ge=0, le=3600, description="wait before a row's first retry; doubles with each, up to a minute or itself"
    )
    failed_share: float = Field(
        0.5, gt=0, le=1, description="the run stops when more than this share of its rows failed, of 20 at least"
    )
    grace_seconds: float = Field(
        25.0, ge=0, le=86400, description="after SIGTERM, how long rows in flight may go on (Spot gives 30 s and more)"
    )
    placement_seconds: float = Field(
        1800.0, gt=0, description="how long one side may be without a loaded actor before the run stops"
    )


class RunConfig(_Section):
    """Everything that decides a run. Absent sections take their defaults; ``corpus`` has none."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$")
    seed: int = Field(0, ge=0, lt=2**63)
    corpus: tuple[CorpusConfig, ...] = Field(min_length=1)
    generators: GeneratorConfig = GeneratorConfig()
    scorers: ScorerConfig = ScorerConfig()
    judges: tuple[JudgeConfig, ...] = ()
    optimizer: OptimizerConfig = NoiseDiffusionConfig()
    output: OutputConfig = OutputConfig()
    ray: RayConfig = RayConfig()
    rows_in_flight: int | None = Field(None, ge=1, description="rows searched at once; derived where absent")
    max_prompt_chars: int = Field(2000, ge=1, description="a longer prompt is refused")
    faults: FaultsConfig = FaultsConfig()

    @field_validator("corpus", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, dict) else value

    @field_validator("optimizer", mode="before")
    @classmethod
    def _paper_method_by_default(cls, value: Any) -> Any:
        return {"method": "noise_diffusion"} | value if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _judges_named_once(self) -> RunConfig:
        names = [judge.name for judge in self.judges]
        if len(set(names)) != len(names):
            raise ValueError("judges: every judge needs its own name")
        return self

    @model_validator(mode="after")
    def _previews_are_shorter(self) -> RunConfig:
        preview, steps = self.optimizer.preview, self.generators.steps
        if preview and preview.steps >= steps:
            raise ValueError(f"optimizer.preview.steps: {preview.steps} must be below generators.steps, {steps}")
        budget, least = self.optimizer.unet_evaluations, steps * (1 + (preview.keep if preview else 0))
        if budget is not None and budget < least:
            what = "the first image and the previews made again" if preview else "the first image"
            raise ValueError(f"optimizer.unet_evaluations: {budget} is below the {least} that {what} take; raise it")
        return self

    @model_validator(mode="after")
    def _attention_is_not_compiled(self) -> RunConfig:
        """Measured with torch 2.13: the losses are right, and their gradient is off by more than half its length."""
        if self.generators.compile and self.optimizer.reads_attention:
            raise ValueError(
                f"generators.compile: {self.optimizer.method} follows the gradient of the U-Net's attention, which "
                "comes out wrong from a compiled U-Net; set it to false"
            )
        return self

    @property
    def run_dir(self) -> Path:
        return to_path(self.output.dir or f"runs/{self.name}")

    @property
    def stores_noise(self) -> bool:
        """Whether rows carry their noise, since no recipe rebuilds it."""
        return self.output.noise and not self.optimizer.folds

    @property
    def replayable(self) -> bool:
        """Whether rows tell their noise, by a recipe or by the noise itself."""
        return self.output.noise or self.optimizer.folds

    def most_per_row(self) -> tuple[int, int]:
        """Images, and U-Net evaluations of the plain sampler, that one row can take at most."""
        method, steps, budget = self.optimizer, self.generators.steps, self.optimizer.unet_evaluations
        keep, search = (method.preview.keep, method.preview.steps) if method.preview else (0, steps)
        rounds = method.rounds if budget is None else min(method.rounds, (budget - steps * (1 + keep)) // search)
        again = rounds if keep and method.target_score is not None else min(keep, rounds)
        most = steps * (1 + again) + rounds * search
        return 1 + rounds + again, most if budget is None else min(most, budget)

    def semantic(self) -> dict[str, Any]:
        """The fields that decide what is made, as dotted key → JSON value.

        Fields left out (null) are left out here too: a later version's further options do not disown a run.
        """
        flat = flatten(self.model_dump(mode="json"))
        operational = {key for key in flat if key.startswith(OPERATIONAL) or key.endswith(".api_key_env")}
        return {key: value for key, value in flat.items() if key not in operational and value is not None}

    def digest(self) -> str:
        """SHA-256 of :meth:`semantic`, 64 hex digits."""
        return hashlib.sha256(json.dumps(self.semantic(), sort_keys=True).encode()).hexdigest()


_PLACEMENT = ("count", "num_gpus", "num_cpus", "batch_size")
_SAME_TO_ROUNDING = ("attention", "vae_slicing", "compile", "cpu_offload")  # as batch_size: the same mathematics
OPERATIONAL = (
    "name", "output.dir", "ray.", "rows_in_flight", "faults.", "scorers.allow_pickle",
    *(f"{side}.{field}" for side in ("generators", "scorers") for field in _PLACEMENT),
    *(f"generators.{field}" for field in _SAME_TO_ROUNDING),
)  # fmt: skip


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as one mapping from dotted key to scalar."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    if not items and not isinstance(value, dict | list | tuple):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in items:
        flat |= flatten(item, f"{prefix}.{key}" if prefix else str(key))
    return flat


def load_config(path: str | Path, overrides: list[str] | None = None) -> RunConfig:
    """Read a YAML config and apply ``key=value`` overrides (dotted keys, YAML values).

    Raises:
        UserError: the file, a key or a value is wrong; the message names it.
    """
    path = to_path(path)
    raw = read_yaml(path, "config", "see configs/ for ready ones")
    if not isinstance(raw, dict):
        raise UserError(f"{path}: must hold a mapping of sections such as corpus: and generators:")
    for override in overrides or []:
        _apply(raw, override)
    return validated(raw, str(path))


def read_yaml(path: Path, kind: str, remedy: str) -> Any:
    """The content of a YAML file.

    Args:
        kind, remedy: for the messages, what file it should be, and what to do where there is none.

    Raises:
        UserError: the file cannot be read or parsed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such {kind} file; {remedy}") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a directory, but a YAML {kind} file is needed") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; save the {kind} as UTF-8 text") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(text) > 1 << 20:  # parsing takes a second a megabyte
        raise UserError(f"{path}: has {len(text)} characters, more than any {kind}; give the YAML {kind} file")
    return _parse_yaml(text, str(path))


def validated(raw: Any, where: str) -> RunConfig:
    """The config of plain sections, checked.

    Raises:
        UserError: a key or a value is wrong; the message begins with ``where`` and names it.
    """
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{where}: {sentence(error, RunConfig, METHODS)}") from None


def dump_config(config: RunConfig) -> str:
    """The resolved config as YAML; reads back to an equal config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", "cannot be parsed")
        raise UserError(f"{where}:{line} is not valid YAML ({problem}); check its indentation and quotes") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: is not valid YAML ({error})") from None


def _apply(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"override {override!r}: write it as key=value, for example optimizer.rounds=10")
    value = _parse_yaml(text, f"override {key}")
    target: Any = raw
    *parents, last = key.split(".")
    for part in parents:
        step = _step(target, part, key)
        if isinstance(target, dict) and target.get(step) is None:
            target[step] = {}
        target = target[step]
    if not isinstance(target, dict | list):
        raise UserError(f"override {key}: {'.'.join(parents)} holds a single value, so it has no {last!r} to set")
    target[_step(target, last, key)] = value


def _step(target: Any, part: str, key: str) -> Any:
    if not isinstance(target, list):
        if not isinstance(target, dict):
            raise UserError(f"override {key}: there is no section at {part!r} to set")
        return part
    if not part.isdigit() or int(part) >= len(target):
        raise UserError(f"override {key}: {part!r} is not an index of a list of {len(target)}; count from 0")
    return int(part)
