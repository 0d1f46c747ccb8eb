"""Loads the models of a config for searches in this process."""

from __future__ import annotations

from noisesmith.pipeline.config import MemberConfig, RunConfig, ScorerConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.generators import load_decoder, load_generator
from noisesmith.pipeline.models.runtime import quiet_libraries
from noisesmith.pipeline.preflight import check_gradient, find_models
from noisesmith.pipeline.scorers import (
    Group,
    ImageScorer,
    Trial,
    group_of,
    load_groups,
    load_judge,
    reads_overshoot,
)
from noisesmith.pipeline.scorers.own import CheckedScorer
from noisesmith.pipeline.search.loop import LoadedModels


def load_models(config: RunConfig, device: str, scorer: ImageScorer | None = None) -> LoadedModels:
    """Find, check and load the models of a config onto ``device``.

    Args:
        scorer: scores in place of the config's model, which is then neither needed nor read in its way.

    Raises:
        UserError: one cannot be found or loaded, or does not fit the method.
    """
    quiet_libraries()
    if scorer is not None:
        config = _without_model(config)
    found = find_models(config)
    panel = config.panel
    decoder = load_decoder(found.generator, device, clamp=not any(map(reads_overshoot, panel)))
    spec = found.generator.spec
    trial = Trial(spec.height, spec.width, decoder.vae.dtype, config.optimizer.uses_gradient)
    own = None if scorer is None else (_own_group(config, scorer),)
    judges = {}
    for judge, source in zip(config.judges, found.judges, strict=True):
        judges[judge.name] = load_judge(source, device, trial)
    return LoadedModels(
        generator=load_generator(found.generator, device),
        decoder=decoder,
        groups=own or load_groups(config, found.scorers, device, trial),
        judges=judges,
    )


def _without_model(config: RunConfig) -> RunConfig:
    """The config with a model that is always there in the place of its one scorer's, for which an object stands."""
    if len(config.panel) > 1:
        raise UserError(
            f"scorer: one object cannot stand for the {len(config.panel)} scorers of the config; name its class in the "
            "model of one of them, or give a config with one scorer"
        )
    section = config.scorers if isinstance(config.scorers, ScorerConfig) else config.scorers[0]
    of_model = ("model", "revision", "server_model", "api_key_env", "quantization", "calibration")
    plain: dict[str, object] = {name: ScorerConfig.model_fields[name].default for name in of_model}
    if section.readout != "yes_no":  # which judges have too
        plain["readout"] = "yes"
    own = section.model_copy(update=plain)
    return config.model_copy(update={"scorers": (own,) if isinstance(own, MemberConfig) else own})


def _own_group(config: RunConfig, scorer: ImageScorer) -> Group:
    """The given object as the config's one scorer."""
    (member,) = config.panel
    steering = CheckedScorer(scorer, "scorer: the given object")
    check_gradient(config, member, steering.id, getattr(scorer, "has_gradient", True))
    if member.asks == "questions" and not callable(getattr(scorer, "log_answers", None)):
        raise UserError("scorers.asks: the given object has no method log_answers; write one, or set asks: prompt")
    return group_of([member], [steering], config.combine)
