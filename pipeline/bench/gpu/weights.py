"""Random weights for models of which only the JSON files are there.

The files of weights are sparse: a header, and zeros that take no room on a disk. So a model is loaded as any other is,
and no billions of numbers are drawn on a CPU. The device then draws them in place. Zeros would not do: a GPU that
multiplies zeros takes less power, and so keeps a higher clock.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import torch

from noisesmith.pipeline.bench.gpu.folders import weights_name
from noisesmith.pipeline.generators import FoundGenerator, model_parts, part_without_weights
from noisesmith.pipeline.models.libraries import Model
from noisesmith.pipeline.scorers import FoundScorer

_TYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64", torch.bool: "BOOL"}


def blank_pipeline(found: FoundGenerator) -> None:
    """Write zeros as the weights of a pipeline's models, of the shapes that their configs say."""
    for name, (library, _) in model_parts(found).items():
        path = Path(found.source.location) / name / weights_name(library)
        write_blank(part_without_weights(found, name), path)


def blank_scorer(found: FoundScorer) -> None:
    """Write zeros as the weights of a scorer, of the shapes that its config says."""
    model = found.family.without_weights(found)
    assert model is not None  # it has a folder
    write_blank(model, Path(found.source.location) / weights_name("transformers"))


def write_blank(model: Model, path: Path) -> None:
    """Write a safetensors file with a zero for each number of a model without weights."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in model.state_dict().items():
        begin = end
        end += tensor.nbytes
        header[name] = {
            "dtype": _TYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        file.truncate(file.tell() + end)


@torch.no_grad()
def randomise(model: Any, seed: int) -> None:
    """Draw random weights for a model, on its device, so that activations keep their size from layer to layer.

    A matrix or a convolution has N(0, 1/n) of its n inputs, a norm's scale is 1, and a bias is 0.
    """
    source = torch.Generator(next(model.parameters()).device).manual_seed(seed)
    for name, weights in model.named_parameters():
        if weights.ndim > 1:
            weights.normal_(0, weights[0].numel() ** -0.5, generator=source)
        else:
            weights.fill_(1.0 if name.endswith("weight") else 0.0)
