"""Gradients through the linear layers of quantised models."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


def let_gradients_pass(model: Any) -> None:
    """Give ``torchao``'s linear layers a gradient that keeps no weights.

    Their own forward pass makes each weight in the computing type for a moment, but autograd keeps all of these until
    the backward pass, so that the model would take as much memory as if it were not quantised.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear) and hasattr(module.weight, "qdata"):
            module.forward = partial(_multiply, module)  # type: ignore[method-assign]


def _multiply(module: nn.Linear, inputs: Tensor) -> Tensor:
    product: Tensor = _FrozenProduct.apply(inputs, module)  # type: ignore[no-untyped-call]
    return product


class _FrozenProduct(torch.autograd.Function):
    """A linear layer with a frozen weight, which is made again in the computing type for the gradient."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, module: nn.Linear) -> Tensor:
        ctx.module = module
        return nn.functional.linear(inputs, module.weight, module.bias)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        (slope,) = slopes
        weight = ctx.module.weight.dequantize()
        return slope @ weight.to(slope.dtype), None
