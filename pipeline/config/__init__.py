"""The configuration of one run: YAML plus dotted overrides, checked before anything is loaded."""

from noisesmith.pipeline.config.accept import AcceptConfig
from noisesmith.pipeline.config.calibration import CalibrationConfig
from noisesmith.pipeline.config.cluster import PlacementConfig
from noisesmith.pipeline.config.corpus import ColumnsConfig, CorpusConfig, Resolution
from noisesmith.pipeline.config.load import calibration_file, dump_config, load_config, read_yaml, validated
from noisesmith.pipeline.config.models import (
    QUESTION,
    GeneratorConfig,
    JudgeConfig,
    LoraConfig,
    ScorerConfig,
    check_server,
    is_url,
)
from noisesmith.pipeline.config.optimizers import (
    METHODS,
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
from noisesmith.pipeline.config.panel import MemberConfig
from noisesmith.pipeline.config.partition import Partition
from noisesmith.pipeline.config.run import RunConfig
from noisesmith.pipeline.config.section import Actors

__all__ = [
    "METHODS",
    "QUESTION",
    "AcceptConfig",
    "Actors",
    "AttendAndExciteConfig",
    "CalibrationConfig",
    "ColumnsConfig",
    "CorpusConfig",
    "GeneratorConfig",
    "InitNoConfig",
    "JudgeConfig",
    "LoraConfig",
    "MeanVarianceConfig",
    "MemberConfig",
    "NoSearchConfig",
    "NoiseDiffusionConfig",
    "OptimizerConfig",
    "Partition",
    "PgdConfig",
    "PlacementConfig",
    "RandomDiffusionConfig",
    "RandomSamplingConfig",
    "Resolution",
    "RunConfig",
    "ScorerConfig",
    "calibration_file",
    "check_server",
    "dump_config",
    "is_url",
    "load_config",
    "read_yaml",
    "validated",
]
