"""The runs that a comparison consists of: ordinary run directories that differ in what is compared and in seed only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from noisesmith.pipeline.bench.kinds import METHODS, Kind, Section, Variant
from noisesmith.pipeline.config import RunConfig, load_config, validated
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.preflight import FoundModels, check_machine, check_resources, check_sizes, find_models
from noisesmith.pipeline.prompts import Corpus, open_corpus
from noisesmith.pipeline.schema import reserved_columns
from noisesmith.pipeline.sinks import check_run_dir, open_run, started_corpus
from noisesmith.pipeline.sinks.manifest import read_manifest
from noisesmith.pipeline.sinks.staging import read_letters
from noisesmith.pipeline.storage.home import location_of


@dataclass(frozen=True)
class Trial:
    """One variant with one seed: one run."""

    variant: Variant
    config: RunConfig

    @property
    def name(self) -> str:
        return self.config.name


@dataclass(frozen=True)
class Design:
    """A checked comparison. Trials run seed by seed, so that the first seeds' trials are a comparison too."""

    kind: Kind
    out: Path
    rounds: int
    seeds: int
    variants: tuple[Variant, ...]
    trials: tuple[Trial, ...]
    corpus: Corpus
    models: FoundModels

    @property
    def settings(self) -> RunConfig:
        """What all trials share, as the first trial's config."""
        return self.trials[0].config

    @property
    def first_seed(self) -> tuple[Trial, ...]:
        """One trial per variant, in the order of the variants."""
        return self.trials[: len(self.variants)]

    def check_machine(self) -> None:
        """Check that this machine has what every variant asks for; see :func:`preflight.check_machine`."""
        for trial in self.first_seed:
            with _named(trial):
                check_machine(trial.config)

    def check_resources(self, have: Mapping[str, float], where: str) -> None:
        """Refuse actors that would never be placed; see :func:`preflight.check_resources`."""
        check_resources(self.settings, have, where)
        for trial in self.first_seed[1:]:
            with _named(trial):
                check_resources(trial.config, have, where)

    def parts(self) -> list[tuple[str, int]]:
        """The corpus by source: (name, prompts), in order, each name once."""
        names = [name for name, _, _ in self.corpus.sections]
        parts: list[tuple[str, int]] = []
        for number, (name, size, _) in enumerate(self.corpus.sections, 1):
            unique = name if names.count(name) == 1 else f"{name} ({number})"
            parts.append((unique, size))
        return parts


def base_config(path: Path | None, overrides: Sequence[str], kind: Kind = METHODS) -> RunConfig:
    """What all variants share, such as models, sampler, judges and corpus: of a config file, or the built-in ones.

    Raises:
        UserError: the config is wrong, or an override sets what the comparison itself sets.
    """
    for override in overrides:
        key = override.partition("=")[0]
        for owned in kind.sets:
            if key == owned or key.startswith(f"{owned}."):
                raise UserError(f"override {key}: a comparison sets it itself; use {kind.instead}")
    return load_config(path or Path(__file__).with_name(kind.config), list(overrides))


def make_design(
    base: RunConfig,
    variants: Sequence[Variant],
    out: Path,
    *,
    prompts: int | None,
    rounds: int,
    seeds: int,
    kind: Kind = METHODS,
) -> Design:
    """Build and check the config of every run. Nothing is written and no model is loaded.

    Args:
        prompts: how many, in equal shares from the sources of ``base.corpus``; when absent, as many as it says.
        rounds: search rounds M.
        seeds: runs per variant, with the seeds 0 to ``seeds`` − 1.

    Raises:
        UserError: a number, a variant, a model, the corpus or a directory cannot be used; the message names it.
    """
    for option, value in (("--prompts", prompts), ("--rounds", rounds), ("--seeds", seeds)):
        if value is not None and value < 1:
            raise UserError(f"{option}: must be at least 1, but it is {value}")
    plain = base.model_dump(mode="json")
    if prompts is not None:
        plain["corpus"] = _shares(plain["corpus"], prompts)
    trials = tuple(_trial(plain, variant, seed, out, rounds) for seed, variant in product(range(seeds), variants))
    models = find_models(base)
    first_seed = trials[: len(variants)]  # one per variant: seeds do not matter to the models
    _check_models(first_seed)
    # All trials have the same corpus. A method that reads attention also checks the prompts' subjects, so the corpus
    # is opened for such a trial where there is one.
    strictest = max(trials, key=lambda trial: trial.config.optimizer.reads_attention)
    started = (started_corpus(trial.config) for trial in trials)
    corpus = open_corpus(strictest.config, next(filter(None, started), None))
    _check_columns(first_seed, corpus)
    for trial in first_seed:
        with _named(trial):
            check_sizes(trial.config, models.generator, corpus)
    design = Design(kind, out, rounds, seeds, tuple(variants), trials, corpus, models)
    for trial in trials:
        _done_rows(design, trial)
    return design


def unfinished(design: Design) -> list[Trial]:
    """The trials with rows left to make. A trial without any is completed here, as the end of its run would have done.

    Raises:
        UserError: every row of a finished trial failed.
    """
    left = []
    for trial in design.trials:
        if _done_rows(design, trial) < design.corpus.size:
            left.append(trial)
        else:
            open_run(trial.config, design.corpus)
            refuse_if_all_failed(trial, design.kind)
    return left


def _done_rows(design: Design, trial: Trial) -> int:
    """How many rows of a trial are done already; refuses a directory that holds anything else than this trial."""
    try:
        return check_run_dir(trial.config, design.corpus)
    except UserError as error:
        raise UserError(str(error).replace("output.dir", "--out")) from None  # the option that sets it here


def refuse_if_all_failed(trial: Trial, kind: Kind) -> None:
    """Stop where a finished trial has no row, since its settings fail on this model.

    Raises:
        UserError: no row was written; the message has the first row's error.
    """
    run_dir = trial.config.run_dir
    if sum(entry.rows for entry in read_manifest(run_dir).entries.values()):
        return
    letter = next(iter(read_letters(run_dir, 0).values()))
    remedy = f"leave it out with {kind.option}" if kind.option else "change the config"
    raise UserError(
        f"variant {trial.variant.label}: every row failed, the first with {letter['error']} ({letter['message']}); "
        f"{remedy}, or delete {run_dir} to try again"
    )


@contextmanager
def _named(trial: Trial) -> Iterator[None]:
    """Name the variant in what the block refuses."""
    try:
        yield
    except UserError as error:
        raise UserError(f"variant {trial.variant.label}: {error}") from None


def _check_models(trials: Sequence[Trial]) -> None:
    """Refuse a variant that its models cannot run, or whose judges would look in another way than those of the first.

    A vision-language judge is asked and read as the first scorer is, so it changes with that scorer.
    """
    first: list[tuple[object, ...]] = []
    for trial in trials:
        with _named(trial):
            judges = find_models(trial.config).judges
        ways: list[tuple[object, ...]] = []
        for judge in judges:
            ways.append((judge.question, judge.readout, judge.dtype) if judge.answers_questions else ())
        first = first or ways
        for section, way, expected in zip(trial.config.judges, ways, first, strict=True):
            if way != expected:
                raise UserError(
                    f"variant {trial.variant.label}: judge {section.name} takes question, readout and dtype from the "
                    f"first scorer, which are others for {trials[0].variant.label}; give both scorers the same, or use "
                    "a judge that is asked nothing, such as embedded/judge"
                )


def _check_columns(trials: Sequence[Trial], corpus: Corpus) -> None:
    """Refuse a corpus whose columns have a name that some variant's rows need."""
    for trial in trials:
        taken = {name.lower() for name in reserved_columns(trial.config)}
        for name in corpus.extra_schema.names:
            if name.lower() in taken:
                raise UserError(
                    f"variant {trial.variant.label}: the corpus has a column {name!r}, which its rows have too; rename "
                    "it with corpus.columns"
                )


def _shares(corpus: list[Section], prompts: int) -> list[Section]:
    if not corpus:
        return []  # refused with a sentence when the corpus is opened
    if prompts < len(corpus):
        raise UserError(f"--prompts: {prompts} is below the {len(corpus)} sources of the corpus; raise it")
    share, rest = divmod(prompts, len(corpus))
    sections: list[Section] = []
    for position, section in enumerate(corpus):
        size = share + 1 if position < rest else share
        sections.append(section | {"size": size})
    return sections


def _trial(plain: Section, variant: Variant, seed: int, out: Path, rounds: int) -> Trial:
    name = f"{variant.label}-seed{seed}"
    changes = variant.changes(rounds, plain["generators"]["steps"])
    changes |= {
        "name": name,
        "seed": seed,
        "output": plain["output"] | {"dir": location_of(out / "runs" / name)},
    }
    return Trial(variant, validated(plain | changes, f"variant {variant.label}"))
