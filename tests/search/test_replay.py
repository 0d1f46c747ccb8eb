"""A row is rebuilt from what its run has written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from noisesmith.pipeline.load import load_models
from noisesmith.pipeline.replay import replay_row
from noisesmith.pipeline.search.loop import search_rows
from noisesmith.pipeline.sinks import verify_run
from tests.sinks.conftest import Run


@pytest.mark.parametrize("stops", [{"rounds": 0}, {"rounds": 2, "target_score": 1e-30}], ids=["no_round", "target"])
@pytest.mark.parametrize(
    "optimizer",
    [{"method": "pgd"}, {"method": "mean_variance"}, {"method": "noise_diffusion", "selection": "order_statistic"}],
    ids=["pgd", "mean_variance", "order_statistic"],
)
def test_a_kept_first_image_is_rebuilt_though_its_stored_noise_is_rounded(
    tmp_path: Path, tiny_sd: Path, tiny_llava: Path, optimizer: dict[str, Any], stops: dict[str, Any]
) -> None:
    run = Run(
        tmp_path,
        [{"prompt": "a cat and a red car"}],
        generators={"model": str(tiny_sd), "steps": 2},
        scorers={"model": str(tiny_llava)},
        judges=[],
        optimizer=optimizer | stops,
    )
    writer = run.writer()
    (found,) = search_rows(run.corpus.rows(), run.config, load_models(run.config, "cpu"))
    assert found.rounds == 0
    writer.put(found)
    assert verify_run(run.dir, [0]) == []
    replayed = replay_row(run.dir, run.config, found.row.id)
    assert replayed.noise_identical
    assert replayed.image_identical


def test_listed_subjects_are_read_from_the_column_that_they_were_written_to(
    tmp_path: Path, tiny_sd: Path, tiny_llava: Path
) -> None:
    run = Run(
        tmp_path,
        [{"prompt": "a cat and a red car", "things": ["cat", "car"]}],
        corpus={
            "source": str(tmp_path / "p.jsonl"),
            "subjects": "things",
            "columns": {"rename": {"things": "objects"}},
        },
        generators={"model": str(tiny_sd), "steps": 2},
        scorers={"model": str(tiny_llava)},
        judges=[],
        optimizer={"method": "attend_and_excite", "rounds": 1},
    )
    writer = run.writer()
    for found in search_rows(run.corpus.rows(), run.config, load_models(run.config, "cpu")):
        writer.put(found)
    replayed = replay_row(run.dir, run.config, run.rows[0].id)
    assert replayed.noise_identical
    assert replayed.image_identical
