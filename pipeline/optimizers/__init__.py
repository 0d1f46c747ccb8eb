"""Search methods, one file each: propose the next noise from (optimizer state, score, gradient)."""

from noisesmith.pipeline.config import (
    AttendAndExciteConfig,
    InitNoConfig,
    MeanVarianceConfig,
    NoiseDiffusionConfig,
    NoSearchConfig,
    OptimizerConfig,
    PgdConfig,
    RandomDiffusionConfig,
    RandomSamplingConfig,
)
from noisesmith.pipeline.optimizers.attend_and_excite import AttendAndExcite
from noisesmith.pipeline.optimizers.base import Feedback, Optimizer, Proposal, Request, Sampler
from noisesmith.pipeline.optimizers.initno import InitNo
from noisesmith.pipeline.optimizers.mean_variance import MeanVariance
from noisesmith.pipeline.optimizers.no_search import NoSearch
from noisesmith.pipeline.optimizers.noise_diffusion import NoiseDiffusion
from noisesmith.pipeline.optimizers.pgd import Pgd
from noisesmith.pipeline.optimizers.random_diffusion import RandomDiffusion
from noisesmith.pipeline.optimizers.random_sampling import RandomSampling

__all__ = ["Feedback", "Optimizer", "Proposal", "Request", "Sampler", "build_optimizer"]


def build_optimizer(config: OptimizerConfig) -> Optimizer:
    """The method that a config section names.

    Raises:
        TypeError: no method has this section.
    """
    match config:
        case NoSearchConfig():
            return NoSearch()
        case RandomSamplingConfig():
            return RandomSampling()
        case RandomDiffusionConfig():
            return RandomDiffusion()
        case NoiseDiffusionConfig():
            return NoiseDiffusion(config)
        case PgdConfig():
            return Pgd(config)
        case MeanVarianceConfig():
            return MeanVariance(config)
        case InitNoConfig():
            return InitNo(config)
        case AttendAndExciteConfig():
            return AttendAndExcite(config)
    raise TypeError(f"no search method has the section {type(config).__name__}")
