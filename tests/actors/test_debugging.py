"""A bug in a worker is found by file and line: in the dead letter, in the log and with ``--debug``."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.runs import noisesmith, write_config

pytestmark = pytest.mark.slow

# Imported by every Python process of a run; only the workers get the bug.
SABOTAGE = """
import sys

if any("default_worker.py" in word for word in sys.orig_argv):
    import planted
    from noisesmith.pipeline.scorers.vlm import VisionLanguageModel

    VisionLanguageModel.log_scores = planted.log_scores
"""
# Right for the prompt that a scorer is tried with when it is loaded, and for no other.
PLANTED = """def log_scores(self, prompts, images):
    weights = {"a cat": 1.0}
    return images.mean() * weights[prompts[0]]
"""
WHERE = 'planted.py", line 3, in log_scores'


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory, tiny_sd: Path, tiny_llava: Path) -> tuple[Path, str]:
    """The directory of a run whose scorer has a bug, and the output of ``noisesmith --debug run``."""
    folder = tmp_path_factory.mktemp("broken")
    (folder / "sitecustomize.py").write_text(SABOTAGE)
    (folder / "planted.py").write_text(PLANTED)
    config = write_config(folder, tiny_sd, tiny_llava, rows=2, faults={"retries": 0})
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    code, output = noisesmith("--debug", "run", config, PYTHONPATH=path)
    assert code == 1, output
    return folder / "run", output


def test_the_dead_letter_has_the_traceback(broken: tuple[Path, str]) -> None:
    letters = [json.loads(line) for line in (broken[0] / "failed" / "shard-00000.jsonl").open()]
    assert len(letters) == 2
    for letter in letters:
        assert letter["error"] == "KeyError"
        assert WHERE in letter["attempts"][-1]["traceback"]


def test_the_log_has_the_traceback(broken: tuple[Path, str]) -> None:
    events = [json.loads(line) for line in (broken[0] / "logs" / "run.jsonl").open()]
    failed = [event for event in events if event["event"] == "row_failed"]
    assert len(failed) == 2
    for event in failed:
        assert event["error"] == "KeyError"
        assert WHERE in event["traceback"]


def test_debug_prints_the_traceback(broken: tuple[Path, str]) -> None:
    _, output = broken
    assert "traceback of the commonest failure:" in output
    assert WHERE in output
    assert "KeyError: 'a " in output
