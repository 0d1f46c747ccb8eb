"""Which kept images are accepted, and what labels by eye say of that.

A rule of thresholds is evaluated after the rows, into the side table ``accepted``.
"""

from noisesmith.pipeline.acceptance.calibrate import (
    Calibration,
    calibrate,
    calibration_lines,
    rule_lines,
    write_calibration,
)
from noisesmith.pipeline.acceptance.labels import read_labels
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
    rule_text,
)

__all__ = [
    "ACCEPTED",
    "Acceptance",
    "Calibration",
    "accept",
    "accept_again",
    "acceptance_lines",
    "calibrate",
    "calibration_lines",
    "check_config",
    "check_rule",
    "read_acceptance",
    "read_labels",
    "rule_in_force",
    "rule_lines",
    "rule_text",
    "verdict",
    "write_calibration",
]
