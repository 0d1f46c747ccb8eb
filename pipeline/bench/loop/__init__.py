"""``noisesmith bench loop``: how much faster `noisesmith run` is than the paper's loop, one prompt at a time."""

from noisesmith.pipeline.bench.loop.design import LOOP, LoopDesign, LoopOptions, make_loop
from noisesmith.pipeline.bench.loop.measure import measure
from noisesmith.pipeline.bench.loop.tables import write_loop

__all__ = ["LOOP", "LoopDesign", "LoopOptions", "make_loop", "measure", "write_loop"]
