"""Weights laid out for narrow forward passes on a CPU.

PyTorch multiplies float32 matrices with whatever BLAS it was built with, and for a few rows that lays out the weights
anew in every pass: four rows of a verification may then take twice the time of one. oneDNN, which PyTorch carries as
well, takes weights that were laid out once. That is what `torch.compile` does to a frozen model; here nothing has to be
compiled. Besides, in most shapes oneDNN computes a row in the same way however many rows there are, bit for bit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

ROWS = 4
"""How many rows the layout is made for. It works for any number."""

LEAST = 1 << 16
"""Weights of a smaller layer stay as they are: there the call itself takes longer than the multiplication."""

_TYPES = (torch.float32, torch.bfloat16)


class PackedLinear(nn.Module):
    """Computes what the `nn.Linear` does that it is made from."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        self._packed: Any = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), ROWS)

    @property
    def weight(self) -> Tensor:
        """A copy, as the model had it."""
        dense: Tensor = self._packed.to_dense()
        return dense

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")
        return out


def possible() -> bool:
    """Whether this PyTorch can do it."""
    ops = torch.ops.mkldnn
    return bool(torch._C._has_mkldnn) and all(
        hasattr(ops, name) for name in ("_reorder_linear_weight", "_linear_pointwise")
    )


def pack(model: nn.Module) -> None:
    """Replace the linear layers of a model that is on the CPU, one after the other."""
    if not possible():
        return
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) is nn.Linear and _pays(child.weight):
                setattr(module, name, PackedLinear(child))


def _pays(weight: Tensor) -> bool:
    return weight.dtype in _TYPES and weight.device.type == "cpu" and weight.numel() >= LEAST
