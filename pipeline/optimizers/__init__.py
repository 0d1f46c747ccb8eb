"""Search methods, one file each, behind one protocol: propose the next noise from (noise, score, gradient)."""

from noisesmith.pipeline.config import (
    MeanVarianceConfig,
    NoiseDiffusionConfig,
    OptimizerConfig,
    PgdConfig,
    RandomDiffusionConfig,
)
from noisesmith.pipeline.optimizers.base import Feedback, Optimizer, Proposal
from noisesmith.pipeline.optimizers.mean_variance import MeanVariance
from noisesmith.pipeline.optimizers.noise_diffusion import NoiseDiffusion, OrderStatistic
from noisesmith.pipeline.optimizers.pgd import Pgd
from noisesmith.pipeline.optimizers.random_diffusion import RandomDiffusion
from noisesmith.pipeline.optimizers.random_sampling import RandomSampling

__all__ = ["Feedback", "Optimizer", "Proposal", "build_optimizer"]


def build_optimizer(config: OptimizerConfig) -> Optimizer:
    """The method a config names. Those that work inside the generator start each round from a fresh draw."""
    if isinstance(config, NoiseDiffusionConfig):
        return (OrderStatistic if config.selection == "order_statistic" else NoiseDiffusion)(config.candidates)
    if isinstance(config, RandomDiffusionConfig):
        return RandomDiffusion()
    if isinstance(config, PgdConfig):
        return Pgd(config.step, config.normalize, config.norm_bound)
    if isinstance(config, MeanVarianceConfig):
        return MeanVariance(config.learning_rate, config.kl_bound)
    return RandomSampling()
