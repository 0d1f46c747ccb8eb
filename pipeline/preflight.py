"""Checks that need no model and no Ray: models found, and the actors' GPUs and cores there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from noisesmith.pipeline.acceptance import check_config
from noisesmith.pipeline.config import (
    AttendAndExciteConfig,
    GeneratorConfig,
    InitNoConfig,
    MemberConfig,
    Resolution,
    RunConfig,
)
from noisesmith.pipeline.embedded import newest, versions
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.generators import FoundGenerator, LatentSpec, check_affine, check_probe, find_generator
from noisesmith.pipeline.lengths import check_lengths
from noisesmith.pipeline.machine import MachineResources, check_ray_folder
from noisesmith.pipeline.models.libraries import Json
from noisesmith.pipeline.models.locate import ModelSource, built_in
from noisesmith.pipeline.models.quantization import without_quantization
from noisesmith.pipeline.models.runtime import quiet_notices
from noisesmith.pipeline.optimizers.attention import choose_map_size
from noisesmith.pipeline.prompts import Corpus, open_corpus
from noisesmith.pipeline.scorers import FoundScorer, find_judge, find_scorer
from noisesmith.pipeline.sinks import made_with, started_part


@dataclass(frozen=True)
class FoundModels:
    """The models of a run, found and checked but not loaded; ``scorers`` are the panel's, in its order."""

    generator: FoundGenerator
    scorers: tuple[FoundScorer, ...]
    judges: tuple[FoundScorer, ...]


def find_models(config: RunConfig) -> FoundModels:
    """Find every model that a config names.

    Raises:
        UserError: a model is missing, of an unsupported class or without the gradient that the method needs; the
            message names the field.
    """
    quiet_notices()
    generator = find_generator(config.generators)
    _check_attention(config, generator.spec, generator)
    short = config.optimizer.short_rounds(config.generators.steps)
    if config.optimizer.probe is not None and short is not None:
        check_probe(generator, short.steps)
    for number, bucket in enumerate(config.generators.buckets or ()):
        _check_size(config, generator, bucket, f"generators.buckets.{number}")
    if config.optimizer.uses_gradient:
        check_affine(generator)
    scorers = tuple(find_scorer(member) for member in config.panel)
    for member, scorer in zip(config.panel, scorers, strict=True):
        check_gradient(config, member, scorer.source.id, scorer.has_gradient)
    if config.optimizer.uses_gradient and not any(member.gradient for member in config.panel):
        raise UserError(
            f"scorers: {config.optimizer.method} follows the score's gradient, and gradient is false for every scorer; "
            "let one of them steer, or use random_sampling or random_diffusion"
        )
    judges = tuple(find_judge(judge, config.panel[0]) for judge in config.judges)
    return FoundModels(generator, scorers, judges)


def check_sizes(config: RunConfig, generator: FoundGenerator, corpus: Corpus) -> None:
    """Refuse sizes that rows ask for and the generator does not make. Those of the buckets have been checked.

    Raises:
        UserError: names the first row that asks for the size.
    """
    if config.generators.buckets is None:
        for resolution, asked in corpus.resolutions.items():
            _check_size(config, generator, resolution, f"{asked.where}: corpus.resolution")


def _check_size(config: RunConfig, generator: FoundGenerator, resolution: Resolution, where: str) -> None:
    try:
        _check_attention(config, generator.spec_of(resolution), generator)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _check_attention(config: RunConfig, spec: LatentSpec, generator: FoundGenerator) -> None:
    """Refuse an attention method on a model whose attention maps it cannot read."""
    method = config.optimizer
    if not isinstance(method, InitNoConfig | AttendAndExciteConfig):
        return
    unet: Json = {}
    if generator.source.class_name == "StableDiffusionPipeline":
        unet = generator.source.read_json("unet/config.json")
    height, width = spec.shape[-2:]
    choose_map_size(method.method, method.attention_size, unet, height, width)


def check_gradient(config: RunConfig, member: MemberConfig, model: str, has_gradient: bool) -> None:
    """Refuse a method that follows the gradient of a scorer which has none.

    Args:
        member: the scorer's section; one with ``gradient: false`` counts in the score alone, so it needs none.
        model: its model, for the message.

    Raises:
        UserError: the method is one of these.
    """
    method = config.optimizer
    if has_gradient or not member.gradient or not method.uses_gradient:
        return
    instead = "" if len(config.panel) == 1 else f", or {member.section}.gradient: false to count it in the score alone"
    raise UserError(
        f"optimizer.method: {method.method} needs the score's gradient, which {member.section}.model "
        f"({model}) cannot give; use random_sampling or random_diffusion, or a model that is loaded here{instead}"
    )


def check_run(config: RunConfig) -> tuple[FoundModels, Corpus]:
    """Find the models and open the corpus of a run, and check everything else that it needs.

    Raises:
        UserError: a model, the corpus, a core or a GPU is missing, or the config does not suit them.
    """
    models = check_models(config)
    part = started_part(config)
    corpus = open_corpus(config) if part is None else open_corpus(config, part.corpus_digest, part.first_row)
    check_sizes(config, models.generator, corpus)
    check_lengths(config, models.generator, corpus)
    return models, corpus


def check_models(config: RunConfig) -> FoundModels:
    """Find the models of a run, and check everything that it needs besides its corpus.

    Raises:
        UserError: as for :func:`check_run`.
    """
    models = find_models(config)
    check_revisions(config, models)
    check_config(config)
    check_machine(config)
    return models


def check_revisions(config: RunConfig, models: FoundModels) -> None:
    """Refuse to resume a run whose rows were made with other weights than those that were found.

    Raises:
        UserError: the revision of the generator or of a scorer is not that of the rows.
    """
    made = made_with(config)
    if made is None:
        return
    found = [("generators", models.generator.source, models.generator.revision)]
    for member, scorer in zip(config.panel, models.scorers, strict=True):
        found.append((member.section, scorer.source, scorer.revision))
    ids = [made["generator"], *made["scorer"].split(" + ")]
    revisions = [made["generator_revision"], *made["scorer_revision"].split(" + ")]
    # A run of other models, quantised otherwise, or of another number of scorers, is refused when it is opened.
    for (section, source, now), model, made_by in zip(found, ids, revisions, strict=False):
        then = without_quantization(made_by)
        now = without_quantization(now)
        if newest(source.id) == newest(model) and then != now:
            raise UserError(
                f"{section}.model: the rows of {config.run_dir} were made with revision {then} of {model!r}, and "
                f"{source.id!r} is {now} now; {_remedy(config, section, source, then)}, or choose another output.dir"
            )


def _remedy(config: RunConfig, section: str, source: ModelSource, then: str) -> str:
    """How to get the weights that made a run's rows."""
    kind = section.split(".")[0]
    before = built_in(kind, source.id, then)
    if before is None:
        return "put the files back that made them" if source.local else f"set {section}.revision={then}"
    version = versions(kind, before).index(before)
    named = {"generators": config.generators.model}
    named |= {member.section: member.model for member in config.panel}
    named |= {f"judges.{number}": judge.model for number, judge in enumerate(config.judges)}
    settings: list[str] = []
    for place, model in named.items():
        names = versions(place.split(".")[0], model)
        if len(names) > version:
            settings.append(f"{place}.model={names[version]}")
    return f"set {' '.join(settings)}"


def check_machine(config: RunConfig) -> None:
    """Check that this machine has what a run asks for, and a folder for Ray, unless the run joins a cluster.

    Raises:
        UserError: it has too few cores or GPUs, or no such folder.
    """
    if config.ray.address is None:
        check_ray_folder()
        check_resources(config, MachineResources(), "this machine")


def check_resources(config: RunConfig, have: Mapping[str, float], where: str) -> None:
    """Refuse actors that would never be placed.

    Args:
        have: GPUs and cores as Ray counts them: ``{"GPU": 0, "CPU": 2}``.
        where: who has them, for the message: "this machine", "the cluster".

    Raises:
        UserError: the actors ask for more than there is.
    """
    sides: dict[str, GeneratorConfig | MemberConfig] = {"generators": config.generators}
    for placed, *_ in config.groups:
        sides[placed.section] = placed
    gpus = {name: (side.count, side.num_gpus) for name, side in sides.items()}
    cores = {name: (side.count, side.num_cpus) for name, side in sides.items()}
    if config.writers.cores:
        cores["writers"] = (config.writers.count, config.writers.cores)
    for resource, field, unit, taken in (("GPU", "num_gpus", "GPUs", gpus), ("CPU", "num_cpus", "CPU cores", cores)):
        wanted = sum(count * share for count, share in taken.values())
        if wanted and wanted > have.get(resource, 0):
            shares = " + ".join(f"{count} × {share:g} for {name}" for name, (count, share) in taken.items())
            raise UserError(
                f"{', '.join(f'{name}.{field}' for name in taken)}: {shares} make {wanted:g} {unit} but {where} has "
                f"{have.get(resource, 0):g}; lower count or {field}"
            )
