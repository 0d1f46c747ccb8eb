"""Real runs for tests: configs on tiny models, and the command as a user starts it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

import yaml

from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.prompts import Corpus
from noisesmith.pipeline.records import Provenance
from noisesmith.pipeline.schema import row_schema, to_table
from noisesmith.pipeline.search.loop import LoadedModels, search_rows
from noisesmith.pipeline.xmp import with_marks

PATIENCE = 300  # seconds for what takes a few at most: a busy machine fails no test
PROMPTS = ["a cat and a red car", "a dog", "a blue bowl under a cat", "a red car on a bowl"]


def write_config(folder: Path, sd: Path, llava: Path, *, rows: int = 6, **overrides: Any) -> Path:
    """A config of ``rows`` prompts on tiny models; keyword arguments replace whole sections or update them."""
    (folder / "prompts.txt").write_text("".join(f"{PROMPTS[i % len(PROMPTS)]}\n" for i in range(rows)))
    config: dict[str, Any] = {
        "name": "test",
        "seed": 7,
        "corpus": [{"source": str(folder / "prompts.txt")}],
        "generators": {"model": str(sd), "steps": 2, "guidance_scale": 3.0, "batch_size": 2},
        "scorers": {"model": str(llava), "batch_size": 2},
        "optimizer": {"method": "noise_diffusion", "rounds": 2, "candidates": 4},
        "output": {"dir": str(folder / "run"), "rows_per_shard": 4},
    }
    for key, value in overrides.items():
        config[key] = config[key] | value if isinstance(value, dict) and key in config else value
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def start(*arguments: str | Path, stdout: IO[str] | int = subprocess.PIPE, **env: str) -> subprocess.Popen[str]:
    """``noisesmith ARGUMENTS`` in a process group of its own, as a shell starts it; ``env`` adds to its environment."""
    return subprocess.Popen(
        [sys.executable, "-c", "from noisesmith.pipeline.cli import main; main()", *map(str, arguments)],
        stdout=stdout,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
        env={**os.environ, "COLUMNS": "200", **env},
    )


def await_line(process: subprocess.Popen[str], beginning: str) -> None:
    """Read a command's output up to a line that begins so, or to its end."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(beginning):
            return


def written_rows(run_dir: Path) -> int:
    """Rows that a run has logged as written."""
    logs = sorted((run_dir / "logs").glob("run.jsonl*"))
    return sum(path.read_text().count('"row_written"') for path in logs)


def await_written_rows(process: subprocess.Popen[str], run_dir: Path, rows: int = 1, seconds: float = 400) -> None:
    """Wait until a run has logged that many written rows; ``seconds`` without a new one fail the test."""
    seen, deadline = 0, time.monotonic() + seconds
    while (now := written_rows(run_dir)) < rows:
        if now > seen:
            seen, deadline = now, time.monotonic() + seconds
        assert process.poll() is None, "the run has ended"
        assert time.monotonic() < deadline, "the run makes no rows"
        time.sleep(0.1)


def finish(process: subprocess.Popen[str], timeout: float = 480) -> tuple[int, str]:
    """Exit code and output of a command; a command that does not end is killed and fails the test."""
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        raise AssertionError(f"did not end: {output}") from None
    return process.returncode, output


def noisesmith(*arguments: str | Path, **env: str) -> tuple[int, str]:
    """Run ``noisesmith ARGUMENTS`` to its end."""
    return finish(start(*arguments, stdout=subprocess.PIPE, **env))


def rows_of_the_loop(
    config: RunConfig, corpus: Corpus, models: LoadedModels, provenance: Provenance
) -> list[dict[str, Any]]:
    """The rows that the loop in one process makes of a corpus, as ``read_rows`` gives those of a run."""
    rows: list[dict[str, Any]] = []
    for result in search_rows(corpus.rows(), config, models):
        rows += to_table(with_marks(result), provenance, row_schema(config, corpus.extra_schema)).to_pylist()
    for row in rows:
        for name in ("image", "image_initial"):
            row[name] = row[name]["bytes"]
        if "round_images" in row:
            row["round_images"] = [image and image["bytes"] for image in row["round_images"]]
    return rows
