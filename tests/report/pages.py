"""A run that has something to show in every part of its page, and prompts that try to break it."""

from __future__ import annotations

import io
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from noisesmith.pipeline.acceptance import accept
from noisesmith.pipeline.config.accept import AcceptConfig
from noisesmith.pipeline.records import Atom, Failure, NoiseStats, Result, Row
from noisesmith.pipeline.sinks import hold_side
from tests.sinks.conftest import Run, result

ROWS = 70
FAILED = 2  # the last rows
SCRIPT = "<script>window.broken = 1</script></script><img src=x onerror='window.broken = 1'><!--"
LONG = "a very long prompt about a cat on a red car next to a blue bowl, " * 20
HOSTILE = (SCRIPT, LONG, "a cat\nand a dog\u2028in two lines", "قطة على سيارة حمراء 🐈", '"quoted" & <b>bold</b> ]]>')
SECRET_PATH = "/home/someone/secret/models"
SECRET_HOST = "gpu-node-17"
TWINS = (10, 11, 12)  # their kept images are alike


def rich_run(folder: Path) -> Run:
    """Write ``ROWS`` rows with two scorers, two judges, questions, verdicts, corpus columns and dead letters."""
    run = Run(
        folder,
        [_line(number) for number in range(ROWS)],
        name="rich",
        scorers=[{"name": "yes", "asks": "questions"}, {"name": "caption", "readout": "caption"}],
        judges=[{"name": "eye", "model": "embedded/judge"}, {"name": "detector", "model": "embedded/judge"}],
        output={"rows_per_shard": 20},
    )
    writer = run.writer()
    for row in run.rows:
        if row.index < ROWS - FAILED:
            writer.put(rich_result(row))
        else:
            writer.fail(_failure(row))
    with hold_side(run.dir, lambda _: None) as check_lock:
        accept(run.dir, AcceptConfig(score=0.6, judges={"eye": 0.5}), check_lock)
    return run


def rich_result(row: Row) -> Result:
    """A row whose values follow from its index. The score rises with every round; a judge may fall."""
    chance = random.Random(row.index)
    rounds = row.index % 5
    first = chance.uniform(0.1, 0.5)
    scores = [first]
    for _ in range(rounds):
        scores.append(scores[-1] + (0.99 - scores[-1]) * chance.uniform(0.0, 0.6))
    kept = scores[-1]
    recipe = result(row).recipe
    moves = tuple(range(1, rounds + 1))
    return replace(
        result(row),
        image=picture(1000 if row.index in TWINS else row.index),
        image_initial=picture(row.index + 5000),
        width=64,
        height=64,
        scores=tuple(scores),
        steps=(20,) * len(scores),
        evaluations=(20.0,) * len(scores),
        score=kept,
        rounds=rounds,
        stop_reason="target" if kept > 0.7 else "rounds",
        judges={"eye": (first, chance.random()), "detector": (None, None if row.index % 7 == 0 else 1.0)},
        members={"yes": (first, kept), "caption": (first / 2, kept / 2)},
        atoms=(Atom("Is there a cat?", "yes", kept), Atom("How many cars are there?", "one", 0.25)),
        recipe=replace(recipe, rounds=moves, gammas=tuple(0.3 for _ in moves), indices=tuple(7 for _ in moves)),
        noise=NoiseStats(chance.gauss(0, 0.06), 1.0, chance.gauss(1, 0.04), 0.02),
    )


def picture(seed: int, side: int = 64) -> bytes:
    """A picture of coloured squares as PNG; each seed gives another."""
    chance = random.Random(seed)
    small = Image.frombytes("RGB", (5, 5), chance.randbytes(75))
    buffer = io.BytesIO()
    small.resize((side, side), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


def _line(number: int) -> dict[str, Any]:
    prompt = HOSTILE[number] if number < len(HOSTILE) else f"prompt {number}: a cat and a red car"
    topic = ("animals", "tools", "<i>odd</i>")[number % 3]
    return {"prompt": prompt, "topic": topic, "difficulty": number / 10, "note": None if number % 2 else "x"}


def _failure(row: Row) -> Failure:
    attempt = {
        "error": "OutOfMemoryError",
        "message": f"no memory for {SECRET_PATH}/unet on {SECRET_HOST}",
        "traceback": f"Traceback: {SECRET_PATH}",
        "where": "generate",
        "actor": f"{SECRET_HOST}:4242",
    }
    return Failure(row, (attempt, attempt, attempt))
