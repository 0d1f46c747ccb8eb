"""Which pictures are trained on: conditions for ``noisesmith export``, from the config's rule of acceptance."""

from __future__ import annotations

from noisesmith.pipeline.config import AcceptConfig, RunConfig
from noisesmith.pipeline.errors import UserError


def check_selection(config: RunConfig) -> AcceptConfig:
    """Return the rule that selects, and leaves a judge to evaluate.

    Raises:
        UserError: there is no such rule, it cannot be used for first images, or no judge is left.
    """
    rule = config.accept
    if rule is None:
        raise UserError(
            "accept: no rule says which images are right; add thresholds such as accept: {score: 0.9}, with those of "
            "the judges that may select"
        )
    if rule.atoms is not None:
        raise UserError(
            "accept.atoms: the questions of first images are not stored, so the rule cannot choose pairs; select by "
            "score and judges"
        )
    if not judges_of_record(config):
        raise UserError(
            "judges: none is left to evaluate, since each selects the pictures; add one that accept does not name"
        )
    return rule


def judges_of_record(config: RunConfig) -> list[str]:
    """The judges that only evaluate."""
    selecting = config.accept.judges if config.accept is not None else {}
    return [judge.name for judge in config.judges if judge.name not in selecting]


def accepted(rule: AcceptConfig) -> str:
    """The condition of a kept image that the rule accepts, for ``--where``."""
    return _reaches(rule, "")


def accepted_pair(rule: AcceptConfig) -> str:
    """The condition of a row whose kept image is accepted and better, and whose first image is not accepted."""
    return f"{_reaches(rule, '')} and not ({_reaches(rule, '_initial')}) and score > score_initial"


def _reaches(rule: AcceptConfig, ending: str) -> str:
    parts = []
    if rule.score is not None:
        parts.append(f"score{ending} >= {rule.score!r}")
    for name, least in rule.judges.items():
        parts.append(f"judge_{name}{ending} >= {least!r}")
    return " and ".join(parts)
