"""``noisesmith bench driver``: how many GPUs one driver keeps busy, in simulations whose workers only wait.

``noisesmith.actors.simulation`` makes a simulation; this package says what was asked for, what was seen, and what
follows from it.
"""

from noisesmith.pipeline.bench.driver.figures import Figures, figures_of
from noisesmith.pipeline.bench.driver.records import DriverOptions, Sample, Simulated, Work
from noisesmith.pipeline.bench.driver.tables import write_driver

__all__ = ["DriverOptions", "Figures", "Sample", "Simulated", "Work", "figures_of", "write_driver"]
