"""What ``noisesmith extend`` adds to a run, or goes on adding."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from noisesmith.pipeline.config import CorpusConfig, RunConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.extend.continued import continue_rows, find_parents
from noisesmith.pipeline.extend.parts import open_part, prompts_of, refuse_other_rule
from noisesmith.pipeline.lengths import check_lengths
from noisesmith.pipeline.preflight import check_models, check_sizes
from noisesmith.pipeline.prompts import open_corpus
from noisesmith.pipeline.records import CheckedCorpus, index_of
from noisesmith.pipeline.sinks import RunState, check_part, config_of_run, hold_part, part_with, refuse_partition
from noisesmith.pipeline.sinks.manifest import Manifest, read_manifest


@dataclass(frozen=True)
class Extension:
    """A part of a run, started or not: its config and rows, and for continued searches ``parents`` and ``below``."""

    config: RunConfig
    corpus: CheckedCorpus
    parents: tuple[int, ...] = ()
    below: float | None = None

    def hold(self, note: Callable[[str], None]) -> AbstractContextManager[RunState]:
        """Open the part, or begin it, as :func:`hold_part` does."""
        return hold_part(self.config, self.corpus, note, self.parents, self.below)


def find_extension(run_dir: Path, overrides: Sequence[str], below: float | None = None) -> Extension:
    """Return the part that a run is to be extended by, with everything checked that needs no model loaded.

    A part that the same overrides have started is returned as it is, also where it is finished.

    Args:
        overrides: changes of the config of the first part, such as ``corpus.source=more.txt``.
        below: continue the searches whose score is below; new prompts are searched when absent.

    Raises:
        UserError: the run cannot be extended in this way; the message says why.
    """
    if below is not None and not 0 < below <= 1:
        raise UserError(f"--below {below:g}: is not a score; give one above 0 and at most 1")
    manifest = read_manifest(run_dir)
    refuse_partition(run_dir, manifest)
    first = config_of_run(run_dir)
    config = config_of_run(run_dir, _with_one_source(first, overrides))
    refuse_other_rule(config, first)
    part = part_with(manifest, config, below)
    if part is not None and part.number:
        check_models(config)
        corpus = open_part(config, manifest, part)
        return Extension(config, corpus, part.parents, below)
    if below is not None:
        return _continued(config, manifest, below)
    if part is not None:
        raise UserError(
            f"{run_dir}: nothing to extend it by; name new prompts with corpus.source=FILE, or continue searches with "
            "--below SCORE optimizer.rounds=N"
        )
    return _more_prompts(config, manifest)


def _with_one_source(first: RunConfig, overrides: Sequence[str]) -> list[str]:
    """Let ``corpus.source=more.txt`` stand for the only corpus of a part, read as the first one of the run.

    Which rows are taken of it is not what it was for the run's corpus. An override of the whole list, or of a section
    by its position, stays.
    """
    of_source = [override for override in overrides if re.match(r"corpus\.[a-z]", override)]
    others = [override for override in overrides if override not in of_source]
    if not of_source:
        return others
    section = first.corpus[0].model_dump(mode="json")
    if any(override.startswith("corpus.source=") for override in of_source):
        for field in ("size", "seed", "split", "revision", "config"):
            section[field] = CorpusConfig.model_fields[field].default
    by_position = [override.replace("corpus.", "corpus.0.", 1) for override in of_source]
    return [f"corpus={json.dumps([section], ensure_ascii=False)}", *by_position, *others]


def _more_prompts(config: RunConfig, manifest: Manifest) -> Extension:
    models = check_models(config)
    corpus = open_corpus(config, first=manifest.rows)
    check_sizes(config, models.generator, corpus)
    check_lengths(config, models.generator, corpus)
    check_part(config, corpus, manifest, continues=False)
    return Extension(config, corpus)


def _continued(config: RunConfig, manifest: Manifest, below: float) -> Extension:
    run_dir = config.run_dir
    if not config.optimizer.folds:
        raise UserError(
            f"--below: {config.optimizer.method} has no recipe for its noise from which a search could go on; extend "
            "the run with new prompts, or make another run"
        )
    for change in config.differences(manifest.header.config):
        if change.startswith("corpus."):
            raise UserError(f"--below: {change}, but continued searches have the prompts that they began with")
    check_models(config)
    rounds = config.optimizer.rounds
    parents = find_parents(run_dir, manifest, below, rounds)
    if not parents:
        raise UserError(
            f"--below: {run_dir} has no search below a score of {below:g} that has taken fewer than {rounds} rounds; "
            "raise optimizer.rounds, which counts the rounds taken already, or the score"
        )
    indices = tuple(index_of(parent.id) for parent in parents.values())
    corpus = continue_rows(prompts_of(run_dir, manifest), manifest, indices, parents, manifest.rows)
    check_part(config, corpus, manifest, continues=True)
    return Extension(config, corpus, indices, below)
