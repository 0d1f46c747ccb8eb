"""``python -m tests.gpu.search SD LLAVA DEVICE``: one search of tiny models; prints scores and moves as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.load import load_models
from noisesmith.pipeline.records import Result, Row, row_id
from noisesmith.pipeline.search.loop import search_rows
from tests.gpu.models import PROMPTS, STEPS

NOISE_DIFFUSION = {"method": "noise_diffusion", "rounds": 2, "candidates": 4}


def tiny_config(sd: str, llava: str, optimizer: Mapping[str, Any] = NOISE_DIFFUSION) -> RunConfig:
    return RunConfig.model_validate(
        {
            "generators": {"model": sd, "steps": STEPS, "guidance_scale": 3.0, "batch_size": 2},
            "scorers": {"model": llava, "batch_size": 2},
            "optimizer": optimizer,
        }
    )


def search(config: RunConfig, device: str, prompts: list[str] = PROMPTS) -> list[Result]:
    rows = [Row(index, row_id(index, prompt), prompt) for index, prompt in enumerate(prompts)]
    return list(search_rows(rows, config, load_models(config, device)))


def main() -> None:
    sd, llava, device = sys.argv[1:]
    found = search(tiny_config(sd, llava), device)
    print(json.dumps([{"scores": result.scores, "indices": result.recipe.indices} for result in found]))


if __name__ == "__main__":
    main()
