"""Ray's memory monitor kills workers while their host is short of memory: every row is written, and none is charged."""

from __future__ import annotations

import json
import os
from pathlib import Path

import psutil
import pytest

from noisesmith.pipeline.sinks import read_rows, verify_run
from tests.runs import noisesmith, write_config

pytestmark = pytest.mark.chaos
ROWS = 8
GIB = 2**30
ROOM = 3.5  # GiB that the run may use until the monitor acts: it takes about 2.5
EXCESS = 0.3  # GiB beyond that which one worker takes, whatever other processes take or free meanwhile
MOST = 10  # GiB that it takes at all

# Imported by every Python process of a run. The first call of a generator fills the memory, once.
SABOTAGE = """
import os, sys
from pathlib import Path

if any("default_worker.py" in word for word in sys.orig_argv):
    import psutil
    from noisesmith.pipeline.search import generate as module

    generate = module.generate

    def used():
        memory = psutil.virtual_memory()
        return memory.total - memory.available

    def sabotaged(*arguments):
        once = Path(os.environ["ONCE"])
        if not once.exists():
            once.touch()
            held = []
            while used() < int(os.environ["FILL_TO"]) and len(held) < int(os.environ["MOST"]):
                held.append(b"x" * 2**26)
        return generate(*arguments)

    module.generate = sabotaged  # Ray's workers look it up there when they unpickle the actor
"""


def test_workers_killed_for_memory_are_replaced_and_cost_no_row(
    tmp_path: Path, tiny_sd: Path, tiny_llava: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SABOTAGE)
    few = {"generators": {"batch_size": 4}, "optimizer": {"rounds": 1}}
    config = write_config(tmp_path, tiny_sd, tiny_llava, rows=ROWS, **few)
    memory = psutil.virtual_memory()
    limit = memory.total - memory.available + ROOM * GIB
    code, output = noisesmith(
        "run",
        config,
        PYTHONPATH=os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH")))),
        ONCE=str(tmp_path / "once"),
        FILL_TO=str(int(limit + EXCESS * GIB)),
        MOST=str(MOST * 2**4),  # pieces of 64 MiB
        RAY_memory_usage_threshold=f"{limit / memory.total:.4f}",
        RAY_memory_monitor_refresh_ms="50",
    )
    assert code == 0, output
    events = [json.loads(line) for line in (tmp_path / "run" / "logs" / "run.jsonl").open()]
    replaced = [event["message"] for event in events if event["event"] == "actor_replaced"]
    assert any("low on memory" in message for message in replaced), replaced
    assert not list((tmp_path / "run" / "failed").glob("*.jsonl"))
    assert [int(row["id"][:8]) for row in read_rows(tmp_path / "run", ["id"])] == list(range(ROWS))
    assert verify_run(tmp_path / "run") == []
