"""A panel of two true families through Ray: one run, in which a scorer's process dies, against closed forms.

One scorer is asked about the whole prompts, the other about their parts.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from noisesmith.pipeline.config import RunConfig, ScorerConfig, load_config
from noisesmith.pipeline.images import decode_png
from noisesmith.pipeline.load import load_models
from noisesmith.pipeline.prompts import open_corpus
from noisesmith.pipeline.records import Provenance, Question
from noisesmith.pipeline.schema import row_schema, to_table
from noisesmith.pipeline.scorers import find_scorer, load_scorer
from noisesmith.pipeline.search.loop import search_rows
from noisesmith.pipeline.sinks import read_rows, verify_run
from noisesmith.pipeline.xmp import with_marks
from tests.runs import noisesmith, write_config

pytestmark = pytest.mark.slow

# Imported by every Python process of a run: the first scorer that is asked with CLIP-FlanT5 in its group is killed.
SABOTAGE = """
import os, sys
from pathlib import Path

if any("default_worker.py" in word for word in sys.orig_argv):
    from noisesmith.pipeline.search import score as module

    score = module.score

    def sabotaged(decoder, group, *others):
        mark = Path(os.environ["MARK"])
        if type(group.members[0].scorer).__name__ == "ClipFlanT5" and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), 9)
        return score(decoder, group, *others)

    module.score = sabotaged  # Ray's workers look it up there when they unpickle the actor
"""
WEIGHTS = {"llava": 1.0, "flan": 2.0}


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, tiny_sd: Path, tiny_llava: Path, tiny_clip_flant5: Path
) -> tuple[RunConfig, list[dict[str, Any]], str]:
    """The config of a finished run of three rows, its rows, and the command's output."""
    folder = tmp_path_factory.mktemp("panel")
    (folder / "sitecustomize.py").write_text(SABOTAGE)
    one = {"batch_size": 1, "num_cpus": 0.5}
    members = [
        {"name": "llava", "model": str(tiny_llava), **one},
        {"name": "flan", "model": str(tiny_clip_flant5), "weight": WEIGHTS["flan"], "asks": "questions", **one},
    ]
    path = write_config(folder, tiny_sd, tiny_llava, rows=3, generators=one, scorers=members, rows_in_flight=3)
    environment = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    code, output = noisesmith("run", path, PYTHONPATH=environment, MARK=str(folder / "mark"))
    assert code == 0, output
    config = load_config(path)
    return config, list(read_rows(config.run_dir)), output


def test_a_dead_scorer_is_replaced_and_no_row_is_lost(made: tuple[RunConfig, list[dict[str, Any]], str]) -> None:
    config, rows, _ = made
    assert len(rows) == 3
    assert verify_run(config.run_dir) == []
    events = [json.loads(line) for line in (config.run_dir / "logs" / "run.jsonl").open()]
    replaced = [event for event in events if event["event"] == "actor_replaced"]
    assert [event["side"] for event in replaced] == ["scorer flan"]


def test_every_members_score_is_its_own_and_the_score_is_their_closed_form(
    made: tuple[RunConfig, list[dict[str, Any]], str], tiny_llava: Path, tiny_clip_flant5: Path
) -> None:
    _, rows, _ = made
    models = {"llava": tiny_llava, "flan": tiny_clip_flant5}
    loaded: dict[str, Any] = {}
    for name, model in models.items():
        loaded[name] = load_scorer(find_scorer(ScorerConfig(model=str(model))), "cpu")
    for row in rows:
        for suffix, image in (("", row["image"]), ("_initial", row["image_initial"])):
            shown = decode_png(image)[None]
            asked = [Question(atom["question"], atom["answer"]) for atom in row["atoms"]]
            with torch.no_grad():
                whole = loaded["llava"].log_scores([row["prompt"]], shown).exp()
                (answers,) = loaded["flan"].log_answers([asked], shown)
            assert row[f"score_llava{suffix}"] == pytest.approx(float(whole), abs=1e-5)
            assert row[f"score_flan{suffix}"] == pytest.approx(float(answers.mean().exp()), abs=1e-5)
            if not suffix:
                assert [atom["score"] for atom in row["atoms"]] == pytest.approx(answers.exp().tolist(), abs=1e-5)
            logs = {name: math.log(row[f"score_{name}{suffix}"]) for name in WEIGHTS}
            mean = sum(WEIGHTS[name] * logs[name] for name in WEIGHTS) / sum(WEIGHTS.values())
            assert row[f"score{suffix}"] == pytest.approx(math.exp(mean), rel=1e-12)
        assert row["scorer"] == f"{tiny_llava} + {tiny_clip_flant5}"


def test_every_prompt_is_asked_about_its_parts(made: tuple[RunConfig, list[dict[str, Any]], str]) -> None:
    _, rows, _ = made
    assert [len(row["atoms"]) for row in rows] == [2, 1, 3]
    assert rows[0]["atoms"][1]["question"] == 'Does this figure show "a red car"? Please answer yes or no.'


def test_the_loop_in_one_process_gives_the_same_rows_bit_for_bit(
    made: tuple[RunConfig, list[dict[str, Any]], str],
) -> None:
    config, rows, _ = made
    corpus = open_corpus(config)
    provenance = Provenance(**{name: rows[0][name] for name in Provenance.__dataclass_fields__})
    expected = []
    for result in search_rows(corpus.rows(), config, load_models(config, "cpu")):
        table = to_table(with_marks(result), provenance, row_schema(config, corpus.extra_schema))
        expected += table.to_pylist()
    for row in expected:
        for name in ("image", "image_initial"):
            row[name] = row[name]["bytes"]
    assert rows == expected
