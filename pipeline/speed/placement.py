"""``placement: auto``: how many workers of each side a run starts with, and with what batch sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from noisesmith.pipeline.config import Actors, MemberConfig, RunConfig, ScorerConfig
from noisesmith.pipeline.preflight import FoundModels, find_models
from noisesmith.pipeline.speed.figures import generator_seconds, scorer_seconds
from noisesmith.pipeline.speed.record import Speeds, check_speeds, read_speeds
from noisesmith.pipeline.speed.split import Budget, Load, best_split
from noisesmith.pipeline.storage.paths import given_path


def place(config: RunConfig, note: Callable[[str], None], models: FoundModels | None = None) -> RunConfig:
    """The config with the counts, and open batch sizes, that ``placement: auto`` chooses; as it is without ``auto``.

    Args:
        note: called with a sentence that says what was chosen, and by what.
        models: those of the config, if they are found already.

    Raises:
        UserError: the calibration is missing, or was measured for something else.
    """
    if config.placement.mode != "auto":
        return config
    models = find_models(config) if models is None else models
    file = config.placement.calibration
    if file is None:
        return _placed_by_operations(config, models, note)
    speeds = read_speeds(given_path(file, "placement.calibration"))
    check_speeds(speeds, file, config, models)
    config = with_batch_sizes(config, speeds)
    counts = split(config, timed_loads(config, speeds))
    note(f"placement: {describe(counts)}, by {file}")
    return with_counts(config, counts)


def sides_of(config: RunConfig) -> dict[str, Actors]:
    """What places the actors of each side, by the name of its section: generators, then each group of scorers."""
    return {"generators": config.generators} | {placed.section: placed for placed, *_ in config.groups}


def timed_loads(config: RunConfig, speeds: Speeds) -> dict[str, Load]:
    """The load of each side at the batch sizes of a config, by the side's name."""
    loads = {}
    for name, side in sides_of(config).items():
        timing = speeds.sides[name].at(side.batch_size)
        per_row = generator_seconds if name == "generators" else scorer_seconds
        loads[name] = Load(per_row(config, timing), side.num_gpus, side.num_cpus)
    return loads


def split(config: RunConfig, loads: Mapping[str, Load]) -> dict[str, int]:
    """The best number of workers of each side within what the config's counts take together, by the side's name."""
    counts = [side.count for side in sides_of(config).values()]
    every = list(loads.values())
    return dict(zip(loads, best_split(every, Budget.of(every, counts)), strict=True))


def with_batch_sizes(config: RunConfig, speeds: Speeds) -> RunConfig:
    """The config with the best batch size of each side that does not set its own."""
    sizes = {name: timing.best for name, timing in speeds.sides.items() if name in open_sizes(config)}
    return _updated(config, "batch_size", sizes)


def open_sizes(config: RunConfig) -> list[str]:
    """The sides whose batch size the config leaves open."""
    written = zip(sides_of(config), (config.generators, *_leaders(config)), strict=True)
    return [name for name, side in written if "batch_size" not in side.model_fields_set]


def with_counts(config: RunConfig, counts: Mapping[str, int]) -> RunConfig:
    """The config with other numbers of workers."""
    return _updated(config, "count", counts)


def describe(counts: Mapping[str, int]) -> str:
    """Numbers of workers, as a part of a sentence."""
    return " + ".join(f"{count} {name}" for name, count in counts.items())


def _leaders(config: RunConfig) -> Sequence[ScorerConfig]:
    """The sections of scorers that place actors, as they are written."""
    if isinstance(config.scorers, ScorerConfig):
        return [config.scorers]
    return [member for member in config.scorers if member.shares is None]


def _updated(config: RunConfig, field: str, values: Mapping[str, int]) -> RunConfig:
    """The config with a field of some sides' actors replaced."""
    generators = config.generators
    if "generators" in values:
        generators = generators.model_copy(update={field: values["generators"]})

    def changed(member: MemberConfig) -> MemberConfig:
        if member.shares is not None or member.section not in values:
            return member
        return member.model_copy(update={field: values[member.section]})

    scorers = config.scorers
    if isinstance(scorers, ScorerConfig):
        if scorers.section in values:
            scorers = scorers.model_copy(update={field: values[scorers.section]})
    else:
        scorers = tuple(map(changed, scorers))
    return config.model_copy(update={"generators": generators, "scorers": scorers})


def _placed_by_operations(config: RunConfig, models: FoundModels, note: Callable[[str], None]) -> RunConfig:
    """The counts that are best if a worker's time were that of its models' operations."""
    from noisesmith.pipeline.cost.estimate import estimate  # imports the model libraries

    generating, scoring = estimate(config, models)
    loads = {}
    for (name, side), cost in zip(sides_of(config).items(), (generating, *scoring.values()), strict=True):
        if not cost.flops:
            note(f"placement: the operations of {name} are not known, so all counts stay as they are")
            return config
        loads[name] = Load(cost.flops, side.num_gpus, side.num_cpus)
    counts = split(config, loads)
    note(f"placement: {describe(counts)}, by their operations; noisesmith plan --calibrate would measure them")
    return with_counts(config, counts)
