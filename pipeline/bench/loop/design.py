"""A checked comparison with the sequential loop: the commands to time, in the order in which they are timed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from noisesmith.pipeline.bench.design import Design, make_design
from noisesmith.pipeline.bench.kinds import Kind, Section, Variant
from noisesmith.pipeline.bench.started import check_started
from noisesmith.pipeline.bench.tables import counted
from noisesmith.pipeline.config import NoiseDiffusionConfig, RunConfig
from noisesmith.pipeline.config.flat import flatten
from noisesmith.pipeline.errors import UserError

LOOP = Kind(
    name="loop",
    reference="run",
    option="",
    sets=("optimizer.rounds", "seed", "name", "output.dir"),
    instead="--rounds, --loop-rounds or --out",
)
TARGET_SCORE = 0.95  # of the search that stops early, where the config has none: as in configs/
RUN, EARLY, LONG = "run", "run_early", "run_long"  # labels of the searches that `noisesmith run` makes


@dataclass(frozen=True)
class LoopOptions:
    """What a comparison is asked for.

    Attributes:
        processes: of the sequential loop, at equal rounds: each number is one line.
        loop_prompts: prompts per process of the loop and repeat.
        loop_rounds: rounds of the loop in the comparison to equal judged truth.
        repeats: how often each command is timed.
        truth: whether that comparison is made, too.
    """

    processes: tuple[int, ...] = (1, 2)
    loop_prompts: int = 2
    loop_rounds: int = 50
    repeats: int = 5
    truth: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing.

        Raises:
            UserError: names the option.
        """
        for name in ("loop_prompts", "loop_rounds", "repeats"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')}: must be at least 1, but it is {getattr(self, name)}")
        if not self.processes or min(self.processes) < 1 or len(set(self.processes)) < len(self.processes):
            given = ",".join(map(str, self.processes))
            raise UserError(f"--processes: must be different numbers of at least 1, but it is {given!r}")


@dataclass(frozen=True)
class Timed:
    """One command to time: a search by ``noisesmith run``, or the loop with a number of processes.

    ``rows`` are prompts per process of the loop.
    """

    label: str
    config: RunConfig
    processes: int = 0
    rounds: int = 0
    rows: int = 0

    @property
    def is_loop(self) -> bool:
        return self.processes > 0

    @property
    def name(self) -> str:
        """What people read."""
        if not self.is_loop:
            return "noisesmith run" + (", early stop" if self.label == EARLY else "")
        return f"loop, {counted(self.processes, 'process', 'processes')}, {counted(self.rounds, 'round')}"


@dataclass(frozen=True)
class LoopDesign:
    """A checked comparison; ``runs`` are its searches by ``noisesmith run``."""

    runs: Design
    options: LoopOptions

    @property
    def out(self) -> Path:
        return self.runs.out

    def config(self, label: str) -> RunConfig:
        """That of one of the searches by ``noisesmith run``."""
        return next(trial.config for trial in self.runs.trials if trial.variant.label == label)

    def timed(self) -> Iterator[Timed]:
        """The commands of one repeat, in their order."""
        options = self.options
        config = self.config(RUN)
        yield Timed(RUN, config)
        for processes in options.processes:
            yield self._loop(processes, self.runs.rounds, options.loop_prompts)
        if options.truth:
            yield Timed(EARLY, self.config(EARLY))
            yield self._loop(1, options.loop_rounds, 1)

    def measurement_of(self, timed: Timed, repeat: int) -> Path:
        """The file with what was measured."""
        return self.out / "measured" / f"{timed.label}-{repeat}.json"

    def folder_of(self, timed: Timed, repeat: int) -> Path:
        """Where the command writes."""
        return self.out / "runs" / f"{timed.label}-{repeat}"

    def settings(self) -> dict[str, object]:
        """What decides the results: two comparisons with equal settings are one, whatever their repeats and lines."""
        models = self.runs.models
        revisions = {"generator": models.generator.revision}
        for number, scorer in enumerate(models.scorers):
            revisions[f"scorer {number}"] = scorer.revision
        fields = flatten(self.config(EARLY).model_dump(mode="json", exclude={"name": True, "output": {"dir"}}))
        return {**fields, "--loop-prompts": self.options.loop_prompts, "corpus": self.runs.corpus.digest, **revisions}

    def _loop(self, processes: int, rounds: int, rows: int) -> Timed:
        return Timed(f"loop_{processes}x{rounds}", self.config(RUN), processes, rounds, rows)


def make_loop(
    base: RunConfig, out: Path, options: LoopOptions, *, prompts: int | None, rounds: int | None
) -> LoopDesign:
    """Check a comparison with the loop. No model is loaded; nothing is written.

    Args:
        base: the config that `noisesmith run` is given. Its ``target_score`` and ``patience`` count only where the
            search may stop early.
        prompts: how many the run searches, in equal shares from the sources; as many as ``base`` says when absent.
        rounds: at equal rounds; those of ``base`` when absent.

    Raises:
        UserError: something cannot be used; the message names the field or option.
    """
    section = _searched(base)
    if options.truth and not base.judges:
        raise UserError("judges: equal judged truth needs one, such as {name: detector, model: embedded/judge}; add it")
    early = {name: section.pop(name) for name in ("target_score", "patience") if name in section}
    variants = [
        _variant(RUN, section, "full rounds"),
        _variant(EARLY, section | (early or {"target_score": TARGET_SCORE}), "ends a row early"),
        _variant(LONG, section | {"rounds": options.loop_rounds}, "what the loop finds, for its judged truth"),
    ]
    rounds = base.optimizer.rounds if rounds is None else rounds
    runs = make_design(base, variants, out, prompts=prompts, rounds=rounds, seeds=1, kind=LOOP)
    if runs.models.generator.family.captured:
        raise UserError(
            f"generators.model: {runs.models.generator.source.id!r} hands other latents to its VAE than its sampler "
            "makes, which the loop cannot replay; give a Stable Diffusion 1, 2, XL or 3"
        )
    needed = max(options.processes) * options.loop_prompts
    if needed > runs.corpus.size:
        raise UserError(f"--loop-prompts: the loop needs {needed} prompts and the corpus has {runs.corpus.size}")
    design = LoopDesign(runs, options)
    check_started(out, design.settings())
    return design


def _searched(base: RunConfig) -> Section:
    """The config's optimizer section without its rounds; refuses a config whose search is not the paper's loop."""
    method = base.optimizer
    if not isinstance(method, NoiseDiffusionConfig):
        raise UserError(f"optimizer.method: the loop is that of noise_diffusion, but it is {method.method}")
    asked = {"selection": method.selection, "move_from": method.move_from, "combine": base.combine or "mean"}
    for name, paper in (("selection", "candidates"), ("move_from", "latest"), ("combine", "mean")):
        if asked[name] != paper:
            field = name if name == "combine" else f"optimizer.{name}"
            raise UserError(f"{field}: the loop knows {paper} alone, but it is {asked[name]}")
    for name in ("preview", "probe", "unet_evaluations"):
        if getattr(method, name) is not None:
            raise UserError(f"optimizer.{name}: the loop has none; set it to null")
    for member in base.panel:
        if not member.gradient:
            raise UserError(f"{member.section}.gradient: the loop steers with every scorer; remove it, or the scorer")
    return method.model_dump(mode="json", exclude_none=True, exclude={"rounds"})


def _variant(label: str, optimizer: Section, why: str) -> Variant:
    return Variant(label, {"optimizer": optimizer}, why)
