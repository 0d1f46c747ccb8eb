"""The search methods, each with its own settings and the text that the dataset card prints about it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field, field_validator

from noisesmith.pipeline.config.section import Section
from noisesmith.pipeline.config.short_rounds import PreviewConfig, ProbeConfig, ShortRounds, short_rounds

PAPER = "[arXiv 2411.16503](https://arxiv.org/abs/2411.16503)"  # Noise Diffusion, CVPR 2025


class _Optimizer(Section):
    text: ClassVar[str]

    rounds: int = Field(50, ge=0, le=100_000, description="search rounds M after the first image")
    target_score: float | None = Field(None, gt=0, le=1, description="stop a row that reaches this score")
    patience: int | None = Field(None, ge=1, description="stop a row after this many rounds without a better score")
    unet_evaluations: int | None = Field(None, ge=1, description="denoising steps a row may take, first image included")
    preview: PreviewConfig | None = None
    probe: ProbeConfig | None = None

    def short_rounds(self, steps: int) -> ShortRounds | None:
        """How rounds end before the sampler's ``steps``; ``None`` where they do not."""
        return short_rounds(self.preview, self.probe, steps)

    @property
    def summary(self) -> str:
        """What one round of the method does, and its source, as Markdown for readers of the dataset."""
        return self.text

    def describe(self) -> str:
        """How images were searched, as one paragraph of Markdown: the method, then what its settings change."""
        made = self.preview or self.probe
        return self.summary if made is None else f"{self.summary} {made.describe()}"

    @property
    def folds(self) -> bool:
        """Whether a recipe of (round, γ, index) rebuilds z_T. Otherwise the noise itself is stored."""
        return True

    @property
    def needs_gradient(self) -> bool:
        """Whether a round needs the gradient of the score."""
        return False

    @property
    def uses_gradient(self) -> bool:
        """Whether the search follows the gradient of the score: it makes rounds, and they need it."""
        return bool(self.rounds) and self.needs_gradient

    @property
    def reads_attention(self) -> bool:
        """Whether the method looks for the prompt's subjects in the generator's attention."""
        return False


class _Walk(_Optimizer):
    """A method whose next noise is a step away from an earlier one."""

    move_from: Literal["latest", "best"] = Field("latest", description="the noise that a round moves away from")

    def describe(self) -> str:
        text = super().describe()
        if self.move_from == "best":
            text += " A round starts from the noise of the best image so far, not from the latest noise."
        return text


class NoSearchConfig(_Optimizer):
    """No search: the first image alone."""

    text: ClassVar[str] = "No search: each prompt has one image, made from one fresh noise z_T ~ N(0, I)."
    method: Literal["none"] = "none"
    rounds: Literal[0] = 0
    preview: None = None
    probe: None = None


class RandomSamplingConfig(_Optimizer):
    """A fresh z_T each round."""

    text: ClassVar[str] = (
        "Random sampling: each round makes an image from a fresh noise z_T ~ N(0, I), whatever was scored before."
    )
    method: Literal["random_sampling"] = "random_sampling"


class RandomDiffusionConfig(_Walk):
    """Adaptive step, one random candidate, no gradient (ablation in arXiv 2411.16503)."""

    text: ClassVar[str] = (
        f"Random diffusion (an ablation in {PAPER}): each round scores the image (s) and moves its noise z_T by γ "
        "= 1 − √s towards a random noise σ, z_T ← √(1−γ)·z_T + √γ·σ. A low score moves the noise far, a high "
        "score only a little."
    )
    method: Literal["random_diffusion"] = "random_diffusion"


class NoiseDiffusionConfig(_Walk):
    """Adaptive step, gradient-selected candidate (arXiv 2411.16503)."""

    text: ClassVar[str] = (
        f"Noise Diffusion ({PAPER}, CVPR 2025): each round denoises the noise z_T, scores the image (s), draws "
        "candidate noises and moves z_T by γ = 1 − √s towards the candidate σ that best follows the score's "
        "gradient, z_T ← √(1−γ)·z_T + √γ·σ."
    )
    method: Literal["noise_diffusion"] = "noise_diffusion"
    candidates: int = Field(50, ge=1, le=1_000_000, description="candidate noises N per round")
    selection: Literal["candidates", "order_statistic"] = Field(
        "candidates",
        description="draw N candidates and select one, or sample the distribution of the selected one directly",
    )
    order_statistic_text: ClassVar[str] = (
        f"Noise Diffusion with an order statistic (after {PAPER}, CVPR 2025): each round denoises the noise z_T, "
        "scores the image (s) and moves z_T by γ = 1 − √s towards a noise σ, z_T ← √(1−γ)·z_T + √γ·σ. The paper "
        "draws N candidates and takes the one that best follows the score's gradient; here one noise is drawn "
        "from the distribution of the best of N (`candidates`)."
    )

    @property
    def summary(self) -> str:
        return self.text if self.selection == "candidates" else self.order_statistic_text

    @property
    def needs_gradient(self) -> bool:
        return True

    @property
    def folds(self) -> bool:
        return self.selection == "candidates"


class PgdConfig(_Walk):
    """Projected gradient ascent on z_T (ablation in arXiv 2411.16503)."""

    text: ClassVar[str] = (
        f"Projected gradient ascent (an ablation in {PAPER}): each round moves the noise z_T along the gradient of "
        "the score. With `norm_bound`, z_T is then projected to ‖z_T‖ ≤ `norm_bound`·√D. Nothing else keeps the "
        "noise close to N(0, I); the `noise` column says how far it went."
    )
    method: Literal["pgd"] = "pgd"
    step: float = Field(0.1, gt=0, description="η; in units of √D along the unit gradient when normalize is set")
    normalize: bool = Field(True, description="step along ∇s/‖∇s‖ instead of ∇s")
    norm_bound: float | None = Field(None, gt=0, description="largest ‖z_T‖/√D; no bound when absent")

    @property
    def needs_gradient(self) -> bool:
        return True

    @property
    def folds(self) -> bool:
        return False


class MeanVarianceConfig(_Optimizer):
    """Adam on the score, over element-wise μ and log σ² of the noise (ablation in arXiv 2411.16503)."""

    text: ClassVar[str] = (
        f"Mean and variance of the noise (an ablation in {PAPER}): z_T = μ + σ⊙ε, where ε is the first noise. Each "
        "round takes one step of Adam on μ and log σ² that raises the score, and scales both back until the mean "
        "KL divergence of N(μ, σ²) from N(0, 1) is at most `kl_bound`."
    )
    method: Literal["mean_variance"] = "mean_variance"
    learning_rate: float = Field(0.01, gt=0)
    kl_bound: float = Field(1e-3, gt=0, description="largest mean KL divergence of N(μ, σ²) from N(0, 1), in nats")

    @property
    def needs_gradient(self) -> bool:
        return True

    @property
    def folds(self) -> bool:
        return False


class _Attention(_Optimizer):
    """A method that reads the U-Net's attention to the prompt's subjects."""

    attention_size: int | None = Field(
        None, ge=2, description="side length of the attention maps; when absent, 16 or the U-Net's next smaller size"
    )

    @property
    def reads_attention(self) -> bool:
        return True


class InitNoConfig(_Attention):
    """Initial noise by cross-attention response and self-attention conflict (Guo et al., CVPR 2024)."""

    text: ClassVar[str] = (
        "InitNO ([arXiv 2404.04650](https://arxiv.org/abs/2404.04650), CVPR 2024): every image, the first "
        "included, starts from a noise z_T = μ + σ⊙ε with a fresh ε. Before sampling, μ and σ are optimised at "
        "the first denoising step, so that every subject of the prompt has a region in the cross-attention and no "
        "two subjects share one in the self-attention. The score only selects the image that is kept."
    )
    method: Literal["initno"] = "initno"
    steps: int = Field(10, ge=1, le=1000, description="Adam steps on μ and log σ² per restart")
    restarts: int = Field(5, ge=1, le=100, description="fresh noises to try until both thresholds are met")
    learning_rate: float = Field(0.01, gt=0)
    kl_bound: float = Field(1e-3, gt=0, description="largest mean KL divergence of N(μ, σ²) from N(0, 1), in nats")
    response_threshold: float = Field(0.2, gt=0, le=1, description="cross-attention response loss to reach")
    conflict_threshold: float = Field(0.3, gt=0, le=1, description="self-attention conflict loss to reach")

    @property
    def folds(self) -> bool:
        return False


class AttendAndExciteConfig(_Attention):
    """Latent updates by attention during sampling (Chefer et al., SIGGRAPH 2023)."""

    text: ClassVar[str] = (
        "Attend-and-Excite ([arXiv 2301.13826](https://arxiv.org/abs/2301.13826), SIGGRAPH 2023): every image, "
        "the first included, starts from a fresh noise z_T ~ N(0, I). In the first part of the sampling (`until`) "
        "the latents are moved between the steps, so that the cross-attention finds every subject of the prompt. "
        "The score only selects the image that is kept."
    )
    method: Literal["attend_and_excite"] = "attend_and_excite"
    step: float = Field(20.0, gt=0, description="scale of a latent update; decreases with the square root of the time")
    until: float = Field(0.5, gt=0, le=1, description="share of the sampler steps with an update")
    thresholds: dict[float, float] = Field(
        {0.0: 0.05, 0.2: 0.5, 0.4: 0.8},
        description="share of the steps → attention that every subject must reach there",
    )
    refinements: int = Field(20, ge=1, le=200, description="most updates at a threshold that is not reached")

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
    NoSearchConfig
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
