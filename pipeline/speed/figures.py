"""From seconds per call to rows per hour and cost: arithmetic alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.search.render import rows_per_render
from noisesmith.pipeline.speed.ladder import BatchTiming
from noisesmith.pipeline.speed.split import Budget, Load, rows_per_second
from noisesmith.pipeline.speed.trials import FIRST, RENDER, ROUND, SCORE


def generator_seconds(config: RunConfig, timing: BatchTiming) -> float:
    """Seconds of a generator per row that takes all rounds of the config.

    The first image has its own call, since its prompt is encoded there. Previews and probes that are finished count in
    proportion to their sampler steps.
    """
    steps = config.generators.steps
    short = config.optimizer.short_rounds(steps)
    _, evaluations = config.most_per_row()
    rounds = (evaluations - steps) / (short.steps if short else steps)
    return (timing.seconds[FIRST] + rounds * timing.seconds.get(ROUND, 0.0)) / timing.batch_size


def scorer_seconds(config: RunConfig, timing: BatchTiming) -> float:
    """Seconds of a scorer per row that takes all rounds of the config; with the end of its search, where it does that.

    All images count like the first one, although the last one needs no gradient.
    """
    images, _ = config.most_per_row()
    seconds = images * timing.seconds[SCORE] / timing.batch_size
    return seconds + timing.seconds.get(RENDER, 0.0) / rows_per_render(timing.batch_size)


@dataclass(frozen=True)
class Forecast:
    """What a split of workers makes, if all rows take all rounds.

    Attributes:
        rows_per_hour, images_per_hour: of all workers together.
        gpus: that they take; cores where none of them has a GPU.
        busy: the share of its time that each side works, by name.
    """

    rows_per_hour: float
    images_per_hour: float
    gpus: float
    busy: Mapping[str, float]

    def cost_per_1000_rows(self, price: float) -> float:
        """What 1,000 rows cost at a price per hour of one GPU, or of one core where no worker has a GPU."""
        return 1000 / self.rows_per_hour * self.gpus * price


def forecast(loads: Mapping[str, Load], counts: Sequence[int], images_per_row: int) -> Forecast:
    """What so many workers of each side make."""
    rate = rows_per_second(list(loads.values()), counts)
    taken = Budget.of(list(loads.values()), counts)
    busy = {}
    for (name, load), count in zip(loads.items(), counts, strict=True):
        busy[name] = rate / (count * load.rate)
    return Forecast(3600 * rate, 3600 * rate * images_per_row, taken.gpus or taken.cpus, busy)


def check_price(price: float | None) -> None:
    """Refuse what is no price.

    Raises:
        UserError: it is not above 0, or no number.
    """
    if price is not None and not (price > 0 and math.isfinite(price)):
        raise UserError(f"--price: {price:g} is no price; give that of one GPU for an hour, such as 2.5")
