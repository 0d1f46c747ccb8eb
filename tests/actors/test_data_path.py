"""What travels where, at the shapes of Stable Diffusion 1.5: arrays through the object store, figures to the driver."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from ray._private.internal_api import node_stats

from noisesmith.actors import packs
from noisesmith.actors.packs import (
    Arguments,
    Located,
    Pack,
    Stored,
    pack_files,
    pack_tensors,
    unpack_file,
    unpack_tensor,
)
from noisesmith.actors.session import Session, session
from noisesmith.actors.stage import AnyCall, Stage
from noisesmith.pipeline.config import RunConfig, load_config
from noisesmith.pipeline.sinks import read_rows
from tests.runs import write_config
from tests.sessions import drive, one_process_per_worker

pytestmark = pytest.mark.slow

LATENT_BYTES = 4 * 64 * 64 * 4
INLINE_BYTES = 100 * 1024  # Ray's max_direct_call_object_size
RECEIVED_PER_ROW = 4096  # bytes that may reach the driver per row and round
ROWS = 8


@dataclass
class Observed:
    """One finished generate, score or render call, as the driver sees it."""

    stage: str
    rows: int
    returns: int
    report_bytes: int
    pack_bytes: list[int]
    store_bytes: int
    held_bytes: int


@dataclass
class Watch:
    """Looks at every answer before the driver hands its rows on."""

    calls: list[Observed] = field(default_factory=list)

    def look(self, call: AnyCall, report: object) -> None:
        stage = call.stage.name.split()[0]  # of a panel, with the member's name behind it
        if stage not in ("generate", "score", "render"):
            return
        references: Any = call.packs
        places = ray.experimental.get_object_locations(references)
        sizes = [place["object_size"] or 0 for place in places.values() if place["node_ids"]]
        worker = ray._private.worker.global_worker
        observed = Observed(
            stage=stage,
            rows=len(call.rows),
            returns=1 + len(call.packs),
            report_bytes=len(pickle.dumps(report)),
            pack_bytes=sizes,
            store_bytes=_store_bytes(),
            held_bytes=worker.core_worker.get_local_memory_store_bytes_used(),
        )
        self.calls.append(observed)


def _store_bytes() -> int:
    """Bytes in this machine's object store, as Ray's own daemon reports them."""
    (node,) = ray.nodes()
    stats = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], include_memory_info=False)
    return int(stats.store_stats.object_store_bytes_used)


def _config(folder: Path, sd: Path, llava: Path, batch_size: int, **sections: Any) -> RunConfig:
    side = {"batch_size": batch_size}
    size = {"width": 128, "height": 128, "steps": 1, "guidance_scale": 1.0}
    sections = {"scorers": side} | sections
    return load_config(write_config(folder, sd, llava, rows=ROWS, generators=side | size, **sections))


def test_a_panel_and_several_writers_leave_arrays_in_the_object_store(
    tmp_path: Path, tiny_sd: Path, tiny_llava: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each image is read by the actors of two scorers, and rows are taken by two writers.

    This test has a cluster of its own, so it comes before that of the others is there.
    """
    member = {"model": str(tiny_llava), "batch_size": 8, "num_cpus": 0.5}
    members = [{"name": name, **member} for name in ("first", "second")]
    config = _config(tmp_path, tiny_sd, tiny_llava, 8, scorers=members, writers={"count": 2, "num_cpus": 0})
    with session(config, print) as runs:
        check_path(runs, config, 8, monkeypatch)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_sd: Path, tiny_llava: Path) -> Iterator[Session]:
    with one_process_per_worker(_config(tmp_path_factory.mktemp("any"), tiny_sd, tiny_llava, 1)) as session:
        yield session


@pytest.mark.parametrize("batch_size", [1, 8])
def test_arrays_stay_in_the_object_store(
    tmp_path: Path, runs: Session, tiny_sd: Path, tiny_llava: Path, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config(tmp_path, tiny_sd, tiny_llava, batch_size)
    check_path(runs, config, batch_size, monkeypatch)


def check_path(runs: Session, config: RunConfig, batch_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a run, and look at every finished call."""
    watch = Watch()
    succeeded = Stage.succeeded

    def watched(stage: Any, call: AnyCall, report: Any) -> None:
        watch.look(call, report)
        succeeded(stage, call, report)

    monkeypatch.setattr(Stage, "succeeded", watched)
    drive(runs, config)
    assert [tuple(row["recipe"]["shape"]) for row in read_rows(config.run_dir, ["recipe"])] == [(4, 64, 64)] * ROWS
    assert max(call.rows for call in watch.calls) == batch_size
    images = ROWS * (1 + config.optimizer.rounds)
    members = len(config.panel)
    for stage, readers in {"generate": 1, "score": members}.items():
        calls = [call for call in watch.calls if call.stage == stage]
        assert sum(call.rows for call in calls) == readers * images
    assert sum(call.rows for call in watch.calls if call.stage == "render") == ROWS
    for call in watch.calls:
        assert call.returns == 2, "a report and one pack: every further object costs the driver time"
        assert call.report_bytes <= RECEIVED_PER_ROW * call.rows
        assert call.held_bytes <= RECEIVED_PER_ROW * ROWS, "the driver's own store holds reports only"
        assert all(size > INLINE_BYTES for size in call.pack_bytes)
        assert call.store_bytes >= LATENT_BYTES * call.rows
        if call.stage == "generate":
            for size in call.pack_bytes:  # none where Ray does not know yet on which node the pack lies
                assert size >= 2 * LATENT_BYTES * call.rows, "the optimizer states and the latents"
    assert any(call.pack_bytes for call in watch.calls if call.stage == "generate")


def test_packs_are_larger_than_what_ray_sends_through_the_caller() -> None:
    assert packs.MIN_PACK_BYTES > INLINE_BYTES
    pack, _ = pack_tensors([torch.ones(4, 8, 8)])
    assert pack.nbytes >= packs.MIN_PACK_BYTES
    files, _ = pack_files([b"png"])
    assert files.nbytes >= packs.MIN_PACK_BYTES


def test_tensors_of_different_lengths_come_back_as_they_were() -> None:
    """Rows of one batch may carry optimizer states of different K."""
    tensors = [torch.randn(1 + extra, 4, 64, 64) for extra in (0, 2, 1)]
    pack, positions = pack_tensors(tensors)
    pack.setflags(write=False)
    for tensor, position in zip(tensors, positions, strict=True):
        found = unpack_tensor([np.zeros(1, np.float32), pack], Located(1, position))
        assert torch.equal(found, tensor)
        found += 1  # a copy: the object store's memory is read-only


def test_files_come_back_as_they_were() -> None:
    contents = [b"first", b"\x00" * 200_000, b""]
    pack, positions = pack_files(contents)
    for content, position in zip(contents, positions, strict=True):
        assert unpack_file([pack], Located(0, position)) == content


def test_a_call_passes_each_pack_once() -> None:
    _, positions = pack_tensors([torch.zeros(1), torch.zeros(1)])
    reference: Any = object()
    pack = Pack(reference, 2)
    arguments = Arguments()
    located = [arguments.locate(Stored(pack, position)) for position in positions]
    assert arguments.references == [reference]
    assert [one.pack for one in located] == [0, 0]
