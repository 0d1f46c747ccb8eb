"""Search methods, one file each, behind one protocol: propose the next noise from (noise, score, gradient)."""

from pipeline.config import NoiseDiffusionConfig, OptimizerConfig
from pipeline.optimizers.base import Feedback, Optimizer, Proposal
from pipeline.optimizers.noise_diffusion import NoiseDiffusion
from pipeline.optimizers.random_sampling import RandomSampling

__all__ = ["Feedback", "Optimizer", "Proposal", "build_optimizer"]


def build_optimizer(config: OptimizerConfig) -> Optimizer:
    """The method a config names."""
    if isinstance(config, NoiseDiffusionConfig):
        return NoiseDiffusion(config.candidates)
    return RandomSampling()
