"""LoRA files that cannot be used, found before a model is loaded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from safetensors import SafetensorError, safe_open

from noisesmith.pipeline.config import GeneratorConfig
from noisesmith.pipeline.errors import UserError, reason
from noisesmith.pipeline.models.weights import is_pointer
from noisesmith.pipeline.storage.home import user_path

# What in a tensor's name marks an adapter of another kind. The library drops a DoRA's scale without a word.
_OTHER_KINDS = {
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "dora_scale": "DoRA",
    "oft_blocks": "OFT",
    "oft_diag": "OFT",
    "oft_R": "OFT",
    "boft_": "BOFT",
    "ia3_": "(IA)³",
    "on_input": "(IA)³",
    "vera_lambda": "VeRA",
    "hra_": "HRA",
    "string_to_param": "textual inversion",
    "emb_params": "textual inversion",
    "controlnet": "ControlNet",
    "control_model": "ControlNet",
    "ip_adapter": "IP-Adapter",
    "model.diffusion_model": "whole model",
}


def check_lora(config: GeneratorConfig) -> None:
    """Refuse LoRA files that are not there, pickled, damaged or of another kind, and any without peft.

    Raises:
        UserError: names the entry.
    """
    for position, lora in enumerate(config.lora):
        path = user_path(lora.path)
        if path.suffix != ".safetensors":
            raise UserError(f"generators.lora.{position}.path: {lora.path!r} is no .safetensors file; give one")
        if not os.path.isfile(path):
            raise UserError(
                f"generators.lora.{position}.path: no file {lora.path!r}; "
                "fetch it with `hf download REPO FILE --local-dir DIR` and give its path"
            )
    if config.lora and find_spec("peft") is None:
        raise UserError("generators.lora: needs the peft package; install it with `pip install peft`")
    for position, lora in enumerate(config.lora):
        _check_kind(user_path(lora.path), f"generators.lora.{position}.path: {lora.path!r}")


def _check_kind(path: Path, named: str) -> None:
    if is_pointer(path):
        raise UserError(f"{named} is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`")
    try:
        with safe_open(path, "np") as file:
            names = list(file.keys())
    except (SafetensorError, OSError) as error:
        raise UserError(f"{named} cannot be read ({reason(error)}); fetch it again") from error
    kind = _other_kind(names)
    if kind is not None:
        raise UserError(f"{named} is a {kind} and no LoRA, which is all that can be merged; give a LoRA")
    odd = next((name for name in names if "lora" not in name and not name.endswith(".alpha")), None)
    if odd is not None or not names:
        found = f"it has the tensor {odd}" if names else "it has no tensors"
        raise UserError(f"{named} is no LoRA ({found}); give a file whose tensors are all a LoRA's")


def _other_kind(names: Sequence[str]) -> str | None:
    for name in names:
        for mark, kind in _OTHER_KINDS.items():
            if mark in name:
                return kind
    return None
