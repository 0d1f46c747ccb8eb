"""Which kept images are accepted: a rule of thresholds, evaluated after the rows into the side table ``accepted``."""

from noisesmith.pipeline.acceptance.rule import verdict
from noisesmith.pipeline.acceptance.table import (
    ACCEPTED,
    Acceptance,
    accept,
    accept_again,
    acceptance_lines,
    check_config,
    check_rule,
    read_acceptance,
    rule_in_force,
)

__all__ = [
    "ACCEPTED",
    "Acceptance",
    "accept",
    "accept_again",
    "acceptance_lines",
    "check_config",
    "check_rule",
    "read_acceptance",
    "rule_in_force",
    "verdict",
]
