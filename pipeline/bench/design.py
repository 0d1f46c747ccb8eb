"""The runs that a comparison consists of: ordinary run directories that differ in search method and seed only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from noisesmith.pipeline.bench.variants import Section, Variant
from noisesmith.pipeline.config import RunConfig, load_config, validated
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.preflight import FoundModels, find_models
from noisesmith.pipeline.prompts import Corpus, open_corpus
from noisesmith.pipeline.sinks import begun_corpus, check_run_dir, open_run
from noisesmith.pipeline.sinks.manifest import read_manifest
from noisesmith.pipeline.sinks.staging import read_letters
from noisesmith.pipeline.storage.home import location_of

EMBEDDED = Path(__file__).with_name("embedded.yaml")
_SET_BY_OPTIONS = ("optimizer", "seed", "name", "output.dir")


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

    def parts(self) -> list[tuple[str, int]]:
        """The corpus by source: (name, prompts), in order, each name once."""
        names = [name for name, _, _ in self.corpus.sections]
        parts: list[tuple[str, int]] = []
        for number, (name, size, _) in enumerate(self.corpus.sections, 1):
            unique = name if names.count(name) == 1 else f"{name} ({number})"
            parts.append((unique, size))
        return parts


def base_config(path: Path | None, overrides: Sequence[str]) -> RunConfig:
    """The models, sampler, judges and corpus to compare with: those of a config file, or the built-in ones.

    Raises:
        UserError: the config is wrong, or an override sets what the comparison itself sets.
    """
    for override in overrides:
        key = override.partition("=")[0]
        for owned in _SET_BY_OPTIONS:
            if key == owned or key.startswith(f"{owned}."):
                raise UserError(
                    f"override {key}: a comparison sets it itself; use --rounds, --seeds, --variants or --out"
                )
    return load_config(path or EMBEDDED, list(overrides))


def make_design(
    base: RunConfig, variants: Sequence[Variant], out: Path, *, prompts: int | None, rounds: int, seeds: int
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
    for trial in trials[: len(variants)]:  # one per variant: seeds do not matter to the models
        _check_fit(trial)
    # All trials have the same corpus. A method that reads attention also checks the prompts' subjects, so the corpus
    # is opened for such a trial where there is one.
    strictest = max(trials, key=lambda trial: trial.config.optimizer.reads_attention)
    begun = (begun_corpus(trial.config) for trial in trials)
    corpus = open_corpus(strictest.config, next(filter(None, begun), None))
    design = Design(out, rounds, seeds, tuple(variants), trials, corpus, models)
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
            refuse_if_all_failed(trial)
    return left


def _done_rows(design: Design, trial: Trial) -> int:
    """How many rows of a trial are done already; refuses a directory that holds anything else than this trial."""
    try:
        return check_run_dir(trial.config, design.corpus)
    except UserError as error:
        raise UserError(str(error).replace("output.dir", "--out")) from None  # the option that sets it here


def refuse_if_all_failed(trial: Trial) -> None:
    """Stop where a finished trial has no row, since its settings fail on this model.

    Raises:
        UserError: no row was written; the message has the first row's error.
    """
    run_dir = trial.config.run_dir
    if sum(entry.rows for entry in read_manifest(run_dir).entries.values()):
        return
    letter = next(iter(read_letters(run_dir, 0).values()))
    raise UserError(
        f"variant {trial.variant.label}: every row failed, the first with {letter['error']} ({letter['message']}); "
        f"leave it out with --methods, or delete {run_dir} to try again"
    )


def _check_fit(trial: Trial) -> None:
    """Refuse a variant that these models cannot run."""
    try:
        find_models(trial.config)
    except UserError as error:
        raise UserError(f"variant {trial.variant.label}: {error}") from None


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
    changes = {
        "name": name,
        "seed": seed,
        "optimizer": variant.optimizer(rounds, plain["generators"]["steps"]),
        "output": plain["output"] | {"dir": location_of(out / "runs" / name)},
    }
    return Trial(variant, validated(plain | changes, f"variant {variant.label}"))
