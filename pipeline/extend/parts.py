"""The corpora of a run's parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.extend.continued import continue_rows, parents_of
from noisesmith.pipeline.preflight import check_models, check_run
from noisesmith.pipeline.prompts import Corpus, open_corpus
from noisesmith.pipeline.records import CheckedCorpus, Parent
from noisesmith.pipeline.sinks import config_of_run
from noisesmith.pipeline.sinks.header import Header
from noisesmith.pipeline.sinks.manifest import Manifest, read_manifest, salvage_manifest
from noisesmith.pipeline.sinks.run import refuse_other_run
from noisesmith.pipeline.storage.home import shell_word


def open_parts(run_dir: Path) -> list[tuple[RunConfig, CheckedCorpus]]:
    """Return the config and the corpus of each part of a run in order, without reading a row of the run.

    Rows that continue others have no ``parent``: they can be recognised, but not made.

    Raises:
        UserError: a config or a corpus cannot be read or differs from that with which the part began.
    """
    manifest, _ = salvage_manifest(run_dir)
    opened = []
    for part in manifest.parts:
        settings = config_of_run(run_dir, number=part.number)
        opened.append((settings, _open(settings, manifest, part, {})))
    return opened


def parts_to_make(run_dir: Path, overrides: Sequence[str]) -> Iterator[tuple[RunConfig, CheckedCorpus]]:
    """Yield the config and the corpus of each part of a run in order, each once everything that it needs is checked.

    A part that continues searches is opened only when it is asked for: those before it may be made until then.

    Raises:
        UserError: as for :func:`open_parts`, or a model or a device is missing, or an override names a rule for a run
            of several parts.
    """
    manifest = read_manifest(run_dir)
    if manifest.later:
        refuse_other_rule(config_of_run(run_dir, list(overrides)), config_of_run(run_dir))
    for part in manifest.parts:
        settings = config_of_run(run_dir, list(overrides), part.number)
        if part.number == 0:
            yield settings, check_run(settings)[1]
        else:
            check_models(settings)
            yield settings, open_part(settings, read_manifest(run_dir), part)


def refuse_other_rule(config: RunConfig, first: RunConfig) -> None:
    """Refuse an acceptance rule for one part: all rows of a run have the same one.

    Raises:
        UserError: the rule of ``config`` is not that of the first part.
    """
    if config.accept != first.accept:
        raise UserError(
            f"accept: all parts of a run have one acceptance rule; leave it out, and set it with "
            f"noisesmith accept {shell_word(first.run_dir)}"
        )


def open_part(config: RunConfig, manifest: Manifest, part: Header) -> CheckedCorpus:
    """Return the corpus of a part that was started with a config.

    Raises:
        UserError: as for :func:`open_parts`.
    """
    parents = parents_of(config.run_dir, manifest, part) if part.parents else {}
    return _open(config, manifest, part, parents)


def _open(config: RunConfig, manifest: Manifest, part: Header, parents: Mapping[int, Parent]) -> CheckedCorpus:
    if part.parents:
        corpora = prompts_of(config.run_dir, manifest)
        return continue_rows(corpora, manifest, part.parents, parents, part.first_row)
    return open_corpus(config, part.corpus_digest, part.first_row)


def prompts_of(run_dir: Path, manifest: Manifest) -> list[Corpus]:
    """Return the corpora from which a run has its prompts, in the order of its parts.

    Raises:
        UserError: as for :func:`open_parts`.
    """
    corpora = []
    for part in manifest.parts:
        if not part.parents:
            settings = config_of_run(run_dir, number=part.number)
            corpus = open_corpus(settings, part.corpus_digest, part.first_row)
            refuse_other_run(settings, corpus, part)
            corpora.append(corpus)
    return corpora
