"""The soak in its short form: the same script, seconds between kills, tiny models."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.soak import plot, quarters, soak

pytestmark = pytest.mark.chaos


def test_a_run_goes_on_while_its_actors_are_killed(tmp_path: Path, tiny_sd: Path, tiny_llava: Path) -> None:
    models = {
        "generators": {"model": str(tiny_sd), "steps": 2, "batch_size": 4, "num_cpus": 0.75},
        "scorers": {"model": str(tiny_llava), "batch_size": 4, "num_cpus": 0.75},
    }
    figures = soak(tmp_path, minutes=0, every=12, seed=0, overrides=models, least_kills=2, least_shards=1)
    assert len(figures["kills"]) >= 2
    assert figures["problems"] == []
    assert figures["doubled_ids"] == figures["dead_letters"] == 0
    assert figures["committed_rows"] >= 64
    files = [sample["driver_files"] for sample in figures["samples"]]
    assert files[-1] <= files[0] + 40, "each actor has its connections; those of the dead are closed"
    assert sum(quarters(figures)) > 0
    plot(figures, tmp_path / "soak.png")
