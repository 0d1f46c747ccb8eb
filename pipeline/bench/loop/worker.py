"""One process of the sequential loop: ``python -m noisesmith.pipeline.bench.loop.worker ORDER``."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from noisesmith.pipeline.bench.loop.reference import Searched, SequentialLoop
from noisesmith.pipeline.config import RunConfig, load_config
from noisesmith.pipeline.images import encode_png, to_float, to_uint8
from noisesmith.pipeline.load import load_models
from noisesmith.pipeline.models.runtime import device_for, quiet_libraries
from noisesmith.pipeline.prompts import open_corpus
from noisesmith.pipeline.records import Row
from noisesmith.pipeline.search.loop import LoadedModels
from noisesmith.pipeline.storage.files import make_dir, write_atomic

READY = "ready"


@dataclass(frozen=True)
class Order:
    """What a process is to do.

    Attributes:
        config: file with the config of the run that the loop is compared with.
        rows: positions in the corpus.
        rounds: search rounds per row.
        threads: of torch.
        folder: where the results and the pictures go.
    """

    config: str
    rows: list[int]
    rounds: int
    threads: int
    folder: str


@dataclass(frozen=True)
class LoopRow:
    """What the loop found for one prompt: its scores by image, and every judge's score of the best image."""

    id: str
    scores: list[float]
    judges: dict[str, float | None]


@dataclass(frozen=True)
class LoopResults:
    """The rows of one process, and the seconds it took for all of them once its models were loaded, without judges."""

    rows: list[LoopRow]
    seconds: float


def results_file(folder: Path) -> Path:
    return folder / "results.json"


def read_results(folder: Path) -> LoopResults:
    """What a process has written."""
    plain = json.loads(results_file(folder).read_text(encoding="utf-8"))
    return LoopResults([LoopRow(**row) for row in plain["rows"]], plain["seconds"])


def main() -> None:
    """Load the models, make one image, say that it is ready, wait for a line on stdin, and search the rows."""
    order = Order(**json.loads(sys.argv[1]))
    folder = Path(order.folder)
    quiet_libraries()
    torch.set_num_threads(order.threads)
    config = load_config(Path(order.config), [])
    rows = _rows(config, order.rows)
    models = load_models(config, device_for(config.generators.num_gpus))
    loop = SequentialLoop(models, config)
    loop.search(rows[0], 0)  # the first image of a process takes longer
    make_dir(folder)
    sys.stdout.write(f"{READY}\n")
    sys.stdout.flush()
    sys.stdin.readline()

    found: list[Searched] = []
    began = time.perf_counter()
    for row in rows:
        found.append(loop.search(row, order.rounds))
        write_atomic(folder / f"{row.id}.png", encode_png(to_uint8(found[-1].best.pixels)[0]))
    seconds = time.perf_counter() - began
    judged = [_judged(row, searched, models) for row, searched in zip(rows, found, strict=True)]
    write_atomic(results_file(folder), json.dumps(asdict(LoopResults(judged, seconds))).encode())


def _rows(config: RunConfig, positions: list[int]) -> list[Row]:
    wanted = set(positions)
    return [row for row in open_corpus(config).rows() if row.index in wanted]


def _judged(row: Row, searched: Searched, models: LoadedModels) -> LoopRow:
    """What the judges say of the best image, as it is written."""
    image = to_float(to_uint8(searched.best.pixels)[0])[None]
    judges = {name: judge.judge([row.prompt], image)[0] for name, judge in models.judges.items()}
    return LoopRow(row.id, searched.scores, judges)


if __name__ == "__main__":
    main()
