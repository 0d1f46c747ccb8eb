"""A row is rebuilt from what its run has written."""

from __future__ import annotations

from pathlib import Path

from noisesmith.pipeline.load import load_models
from noisesmith.pipeline.replay import replay_row
from noisesmith.pipeline.search.loop import search_rows
from tests.sinks.conftest import Run


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
