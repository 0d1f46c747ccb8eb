"""``noisesmith rescore`` as a user starts it: judges come to a run that is there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from noisesmith.actors.rescore import rescore
from noisesmith.pipeline.config import JudgeConfig
from noisesmith.pipeline.config.section import Actors
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.images import decode_png
from noisesmith.pipeline.sinks import read_rows, verify_run
from tests.runs import PROMPTS, noisesmith
from tests.sinks.conftest import Run, png, result


def finished_run(folder: Path, rows: int) -> Run:
    """A run with images of 64×64 pixels, each of its own colour."""
    run = Run(folder, [{"prompt": PROMPTS[n % len(PROMPTS)]} for n in range(rows)])
    writer = run.writer()
    for row in run.rows:
        kept, first = png(row.index * 977, (64, 64)), png(row.index * 31, (64, 64))
        writer.put(replace(result(row), width=64, height=64, image=kept, image_initial=first))
    return run


@pytest.mark.parametrize(
    ("of_run", "of_judge", "message"),
    [(1.0, 0.0, "judges.llava.quantization: .* needs a GPU, but num_gpus is 0"), (0.0, 1.0, "^--count, --num-gpus: ")],
)
def test_a_judge_is_quantised_where_it_is_placed(
    tmp_path: Path, tiny_llava: Path, monkeypatch: pytest.MonkeyPatch, of_run: float, of_judge: float, message: str
) -> None:
    """And not where the run's scorers were."""
    monkeypatch.setattr("noisesmith.pipeline.models.quantization.find_spec", lambda _: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    scorers = {"num_gpus": of_run, "dtype": "bfloat16"}
    run = Run(tmp_path, [{"prompt": "a cat"}], scorers=scorers).write_all()
    judge = JudgeConfig(name="llava", model=str(tiny_llava), quantization="bitsandbytes-nf4")
    with pytest.raises(UserError, match=message):
        rescore(run.config, (judge,), Actors(num_gpus=of_judge), print)


@pytest.mark.slow
def test_judges_are_added_to_a_run(tmp_path: Path, tiny_llava: Path, tiny_instructblip_t5: Path) -> None:
    from noisesmith.pipeline.scorers import find_judge, load_judge

    run = finished_run(tmp_path, 6)
    models = {"llava": tiny_llava, "blip": tiny_instructblip_t5}
    judges = ["--judge", "detector=embedded/judge", "--judge", f"llava={tiny_llava}"]
    judges += ["--judge", f"{{name: blip, model: {str(tiny_instructblip_t5)!r}}}"]
    code, output = noisesmith("rescore", run.dir, *judges, "--count", "2", "--num-cpus", "0.5", "--batch-size", "3")
    assert code == 0, output
    assert "judge llava: 6 of 6 kept images judged, mean 0." in output
    assert verify_run(run.dir) == []
    rows = list(read_rows(run.dir))
    for name, model in models.items():
        judge = load_judge(find_judge(JudgeConfig(name=name, model=str(model)), run.config.panel[0]), "cpu")
        for row in rows:
            for column in ("", "_initial"):
                (alone,) = judge.judge([row["prompt"]], decode_png(row[f"image{column}"])[None])
                assert row[f"judge_{name}{column}"] == pytest.approx(alone, abs=1e-5)
    assert len({row["judge_llava"] for row in rows}) == 6
    # These prompts are of the grammar only in part: the detector answers, or says that it cannot.
    assert {row["judge_detector"] for row in rows} <= {0.0, 1.0, None}
    stats = json.loads((run.dir / "stats.json").read_text())
    assert stats["summary"]["judges"]["llava"]["rows"] == 6
    assert "| judge llava | 6 |" in (run.dir / "README.md").read_text()
    again = JudgeConfig(name="llava", model=str(tiny_llava))
    assert rescore(run.config, (again,), Actors(), print) == 0, "nothing is left to judge"
    other = JudgeConfig(name="llava", model="embedded/judge")
    with pytest.raises(UserError, match=r"llava: shards .* judged otherwise \(model was .* again with --replace"):
        rescore(run.config, (other,), Actors(), print)
