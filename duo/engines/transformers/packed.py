"""Weights laid out for narrow forward passes on a CPU.

PyTorch multiplies float32 matrices with whatever BLAS it was built with, and for a few rows that lays out the weights
anew in every pass: four rows of a verification may then take twice the time of one. oneDNN, which PyTorch carries as
well, takes weights that were laid out once. That is what `torch.compile` does to a frozen model; here nothing has to be
compiled. Besides, in most shapes oneDNN computes a row in the same way however many rows there are, bit for bit.

On some processors it takes longer for one or two rows than for `ROWS` (a Zen 4 core does, with weights that come
from memory). Which is so is measured, and fewer rows are filled up there.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from duo.engines import store

ROWS = 4
"""How many rows the layout is made for. It works for any number."""

LEAST = 1 << 16
"""Weights of a smaller layer stay as they are: there the call itself takes longer than the multiplication."""

LARGE = 1 << 18
"""Weights of a layer from which on rows are filled up, where that is faster: to copy them takes microseconds."""

FASTER = 0.9
"""As long as that share of what fewer rows take may `ROWS` take, to be said to be faster."""

SWEEPS, PATIENCE = 2, 0.2
"""How often that is measured at least, and for how many seconds if they are short; the fastest counts."""

SWEPT = 1 << 27
"""Weights that it is measured with at most: so many come from memory and not from a cache."""

_TYPES = (torch.float32, torch.bfloat16)


class PackedLinear(nn.Module):
    """Computes what the `nn.Linear` does that it is made from."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias, self.dtype = linear.bias, linear.weight.dtype
        self._packed: Any = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), ROWS)
        self.filled_up: Collection[int] = ()
        """Numbers of rows that are filled up to `ROWS`."""

    @property
    def weight(self) -> Tensor:
        """A copy, as the model had it."""
        dense: Tensor = self._packed.to_dense()
        return dense

    def forward(self, x: Tensor) -> Tensor:
        rows = x.shape[-2] if x.dim() > 1 else 0
        if rows in self.filled_up and x.numel() == rows * self.in_features:
            return self._multiply(nn.functional.pad(x, (0, 0, 0, ROWS - rows)))[..., :rows, :]
        return self._multiply(x)

    def _multiply(self, x: Tensor) -> Tensor:
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
    large: list[PackedLinear] = []
    for module in model.modules():
        for name, child in module.named_children():
            # Of Mamba-1's `dt_proj` the model reads the weights itself.
            if type(child) is nn.Linear and name != "dt_proj" and _pays(getattr(child, "weight", None)):
                packed = PackedLinear(child)
                setattr(module, name, packed)
                if child.weight.numel() >= LARGE:
                    large.append(packed)
    filled_up = _slow(large)
    for layer in large:
        layer.filled_up = filled_up


def _slow(layers: Sequence[PackedLinear]) -> Collection[int]:
    """Numbers of rows for which these layers, one after the other, take longer than for `ROWS`."""
    if not layers:
        return ()
    sizes = accumulate(layer.in_features * layer.out_features for layer in layers)
    layers = [layer for layer, size in zip(layers, sizes, strict=True) if size <= SWEPT] or layers[:1]
    # Remembered, since the bits of a row depend on it: two starts are to give the same.
    about = [torch.__version__, torch.get_num_threads(), *((layer.dtype, layer.in_features) for layer in layers)]
    return store.remembered("packed", about, _numbers, lambda: _measure(layers), list)


def _numbers(found: Any) -> Collection[int]:
    return [int(rows) for rows in found]


def _measure(layers: Sequence[PackedLinear]) -> Collection[int]:
    best = dict.fromkeys(range(1, ROWS + 1), float("inf"))
    sweeps, begun = 0, time.perf_counter()
    while sweeps < SWEEPS or time.perf_counter() - begun < PATIENCE:
        sweeps += 1
        for rows, least in best.items():
            best[rows] = min(least, _sweep(layers, rows))
    return [rows for rows in range(1, ROWS) if best[ROWS] < FASTER * best[rows]]


def _sweep(layers: Sequence[PackedLinear], rows: int) -> float:
    """Seconds for so many rows through each of the layers."""
    given = [torch.zeros((1, rows, layer.in_features), dtype=layer.dtype) for layer in layers]
    with torch.inference_mode():
        started = time.perf_counter()
        for layer, x in zip(layers, given, strict=True):
            layer(x)
        return time.perf_counter() - started


def _pays(weight: Tensor | None) -> bool:
    """Quantised layers may have no weight by that name."""
    return weight is not None and weight.dtype in _TYPES and weight.device.type == "cpu" and weight.numel() >= LEAST
