"""``noisesmith bench training``: whether a model becomes more faithful by training on its own searched images.

One generator is trained from the same weights in several ways (arms) that differ in the pictures only, and its images
of prompts that were never trained on are scored and judged.
"""

from noisesmith.pipeline.bench.training.arms import ARMS
from noisesmith.pipeline.bench.training.design import TrainingDesign, make_training
from noisesmith.pipeline.bench.training.options import TRAINING, TrainingOptions
from noisesmith.pipeline.bench.training.run import train_arms, unfinished_arms
from noisesmith.pipeline.bench.training.tables import write_training

__all__ = [
    "ARMS",
    "TRAINING",
    "TrainingDesign",
    "TrainingOptions",
    "make_training",
    "train_arms",
    "unfinished_arms",
    "write_training",
]
