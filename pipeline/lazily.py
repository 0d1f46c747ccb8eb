"""Torch, imported when a name of it is first used.

A driver and the checks before a run name torch's types and never compute, and the import takes two seconds of CPU.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch as torch
    from torch import nn as nn
    from torch.nn import functional as F

    __all__ = ["F", "nn", "torch"]
else:

    class _Later(ModuleType):
        def __getattr__(self, name: str) -> Any:
            return getattr(import_module(self.__name__), name)

        def __reduce__(self) -> tuple[type[_Later], tuple[str]]:
            """Ray pickles the class of an actor with the names that its methods use, this one among them."""
            return _Later, (self.__name__,)

    torch = _Later("torch")
    nn = _Later("torch.nn")
    F = _Later("torch.nn.functional")
