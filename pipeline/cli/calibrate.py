"""``noisesmith calibrate``: what labels by eye say of a run's acceptance rule and scores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from noisesmith.pipeline.cli.common import RunDir, console, interruptible, local_path

if TYPE_CHECKING:
    from noisesmith.pipeline.acceptance import Calibration
    from noisesmith.pipeline.acceptance.calibrate import ScoreFigures

DIAGRAM = "calibration.png"


def calibrate(
    run_dir: RunDir,
    labels: Annotated[
        Path,
        typer.Option(
            "--labels", metavar="FILE", help="CSV or JSON lines with id and label, 1 or 0.", parser=local_path
        ),
    ],
    precision: Annotated[
        float, typer.Option("--precision", metavar="P", min=0, max=1, help="Look for thresholds with this precision.")
    ] = 0.9,
) -> None:
    """Compare kept images that were labelled by eye with the acceptance rule, the scores and the judges.

    Prints precision and recall of the rule, the threshold of each score for a wanted precision, and calibrations to
    paste into a config; writes calibration.json and a reliability diagram into the run.
    """
    from noisesmith.pipeline.acceptance import accept_again, read_labels, write_calibration
    from noisesmith.pipeline.acceptance import calibrate as compare
    from noisesmith.pipeline.acceptance.diagram import reliability_diagram
    from noisesmith.pipeline.report import rewrite_report
    from noisesmith.pipeline.sinks import config_of_run, hold_side, read_rows
    from noisesmith.pipeline.sinks.location import writing
    from noisesmith.pipeline.storage.files import write_atomic

    settings = config_of_run(run_dir)
    given = read_labels(labels, {row["id"] for row in read_rows(run_dir, ["id"])})
    with interruptible(), hold_side(run_dir, console.print) as check_lock:
        accept_again(run_dir, settings, check_lock)
        found = compare(run_dir, settings, given, precision)
        check_lock()
        with writing(run_dir):
            write_calibration(run_dir, found)
            write_atomic(run_dir / DIAGRAM, reliability_diagram(found.scores))
        rewrite_report(run_dir, settings)
    _print(found)
    console.print(f"written: {run_dir / 'calibration.json'}, {run_dir / DIAGRAM}")


def _print(found: Calibration) -> None:
    from noisesmith.pipeline.acceptance import rule_lines

    console.print(f"{found.images} labelled images; they show their prompts in {found.right}")
    if found.rule is None:
        console.print("no acceptance rule yet; give one with noisesmith accept")
    else:
        for line in rule_lines(found.images, found.rule.precision, found.rule.recall):
            console.print(line)
    for name, figures in found.scores.items():
        console.print(f"\n{name}: {_threshold(figures, found.wanted_precision)}")
        if figures.fitted:
            _print_fits(figures)


def _threshold(figures: ScoreFigures, wanted: float) -> str:
    import numpy as np

    cut = figures.cut
    if cut is None:
        return f"no threshold has a precision of {wanted:g} on these labels"
    threshold = np.format_float_positional(cut.threshold, trim="-")
    text = f"from {threshold} on, precision {cut.precision}, recall {cut.recall}"
    if cut.precision.low < wanted:
        text += f"; more labels are needed to be sure of {wanted:g}"
    return text


def _print_fits(figures: ScoreFigures) -> None:
    """Print the calibrations as the lines of a config's scorer."""
    if figures.temperature is not None:
        console.print(f"calibration: {{temperature: {figures.temperature:.4g}}}")
    else:
        console.print("no temperature fits: the score separates these labels, or says nothing of them")
    if figures.points is not None:
        points = ", ".join(f"[{_plain(score)}, {_plain(probability)}]" for score, probability in figures.points)
        console.print(f"calibration: {{points: [{points}]}}")
    else:
        console.print("no rising map fits these labels")


def _plain(value: float) -> str:
    """A number without an exponent, which YAML would read as text."""
    return f"{value:.6f}".rstrip("0")
