"""A generator's worker without Ray: what its calls hand on through packs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from noisesmith.actors.generator import GenerateOrder, GenerateReport, GeneratorActor
from noisesmith.actors.packs import Located, encode, unpack_tensor
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.generators import find_generator, load_generator
from noisesmith.pipeline.noise import NoiseKey
from noisesmith.pipeline.search.tasks import GenerateTask

STEPS, STOP = 5, 3


def test_a_probe_goes_on_at_another_worker_from_what_lies_in_the_pack(tiny_sd: Path) -> None:
    generators = {"model": str(tiny_sd), "steps": STEPS, "scheduler": "pndm"}
    optimizer = {"method": "random_sampling", "probe": {"at": STOP / STEPS}}
    config = RunConfig.model_validate({"generators": generators, "optimizer": optimizer})
    actor: Any = GeneratorActor
    workers = [actor.__ray_metadata__.modified_class(config) for _ in range(2)]
    for worker in workers:
        worker._generator = load_generator(find_generator(config.generators), "cpu")

    begin = GenerateTask("a cat", (), NoiseKey(0, "row", 0), STEPS, stop=STOP)
    report: GenerateReport
    report, pack = workers[0].generate(encode([GenerateOrder(begin)]))
    state, paused = Located(0, report.states[0]), Located(0, report.paused[0])
    go_on = GenerateTask("a cat", (), NoiseKey(0, "row", 0), STEPS, 0.5, rerender=True, taken=STOP, scored_at=STOP)
    finished, end = workers[1].generate(encode([GenerateOrder(go_on, state, paused=paused)]), pack)

    noise = unpack_tensor([pack], state)
    whole = workers[0]._generator.sample(["a cat"], noise, STEPS)
    assert torch.equal(unpack_tensor([end], Located(0, finished.latents[0])), whole[0])
    assert paused.position.shape == (4, *noise.shape[1:]), "z_t and three predictions, which PNDM looks back at"
    assert (report.records[0].evaluations, finished.records[0].evaluations) == (STOP, STEPS - STOP)
    assert finished.records[0].digest == report.records[0].digest
    assert finished.paused == []
