"""``noisesmith bench gpu``: seconds per round of full-size models on one device, and where they go."""

from noisesmith.pipeline.bench.gpu.cells import CELLS, read_pairs
from noisesmith.pipeline.bench.gpu.run import Bench, check_bench, run_bench
from noisesmith.pipeline.bench.gpu.tables import write_gpu

__all__ = ["CELLS", "Bench", "check_bench", "read_pairs", "run_bench", "write_gpu"]
