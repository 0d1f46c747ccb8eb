"""The search methods, each with its own settings."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator

from noisesmith.pipeline.config.section import Section


class PreviewConfig(Section):
    """Cheap early rounds: few sampler steps while searching, the best of them made again at full T."""

    steps: int = Field(ge=1, le=1000, description="sampler steps of a search round; the first image has full T")
    keep: int = Field(1, ge=1, le=64, description="best previews to make again at full T, scored anew")


class _Optimizer(Section):
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
