"""Weights laid out once for narrow forward passes on a CPU.

PyTorch multiplies float32 matrices with the BLAS that it was built with. For a few rows, that BLAS lays out the weights
again in every pass: four rows may take twice the time of one. oneDNN, which PyTorch also carries, takes weights that
were laid out once. `torch.compile` does the same to a frozen model, but here nothing must be compiled. In most shapes
oneDNN also computes a row with the same bits however many rows there are.

On some processors one or two rows take longer than `ROWS` rows (a Zen 4 core, with weights that come from memory). That
is measured, and fewer rows are padded there.
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
"""The number of rows that the layout is made for. It works for any number."""

MIN_WEIGHTS = 1 << 16
"""Layers with fewer weights stay as they are: the call takes longer than the multiplication."""

MIN_PADDED_WEIGHTS = 1 << 18
"""Only layers with this many weights are padded, for the copy of the rows takes microseconds."""

MAX_TIME_SHARE = 0.9
"""`ROWS` rows count as faster than fewer rows if they take at most this share of the time."""

MIN_SWEEPS, SWEEP_SECONDS = 2, 0.2
"""Sweeps at least, and seconds to go on with more. The fastest sweep counts."""

MAX_SWEPT_WEIGHTS = 1 << 27
"""Most weights of a sweep. So many come from memory and not from a cache."""

_REORDER, _MULTIPLY = "_reorder_linear_weight", "_linear_pointwise"
"""oneDNN's operations in PyTorch. They have no public names."""

_TYPES = (torch.float32, torch.bfloat16)


class PackedLinear(nn.Module):
    """Computes what a given `nn.Linear` computes."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias, self.dtype = linear.bias, linear.weight.dtype
        self._packed: Any = getattr(torch.ops.mkldnn, _REORDER)(linear.weight.detach(), ROWS)
        self.padded: Collection[int] = ()
        """Numbers of rows that are padded to `ROWS`."""

    @property
    def weight(self) -> Tensor:
        """A copy of the weights, as the model had them."""
        dense: Tensor = self._packed.to_dense()
        return dense

    def forward(self, x: Tensor) -> Tensor:
        rows = x.shape[-2] if x.dim() > 1 else 0
        if rows in self.padded and x.numel() == rows * self.in_features:
            return self._multiply(nn.functional.pad(x, (0, 0, 0, ROWS - rows)))[..., :rows, :]
        return self._multiply(x)

    def _multiply(self, x: Tensor) -> Tensor:
        out: Tensor = getattr(torch.ops.mkldnn, _MULTIPLY)(x, self._packed, self.bias, "none", [], "")
        return out


def possible() -> bool:
    """Whether this PyTorch has oneDNN with the operations needed."""
    ops = torch.ops.mkldnn
    backend: Any = torch.backends.mkldnn
    return bool(backend.is_available()) and all(hasattr(ops, name) for name in (_REORDER, _MULTIPLY))


def pack(model: nn.Module) -> None:
    """Replace the linear layers of a model on the CPU."""
    if not possible():
        return
    large: list[PackedLinear] = []
    for module in model.modules():
        for name, child in module.named_children():
            # The model reads the weights of Mamba-1's `dt_proj` itself.
            if type(child) is nn.Linear and name != "dt_proj" and _pays(getattr(child, "weight", None)):
                packed = PackedLinear(child)
                setattr(module, name, packed)
                if child.weight.numel() >= MIN_PADDED_WEIGHTS:
                    large.append(packed)
    padded = _slow(large)
    for layer in large:
        layer.padded = padded


def _slow(layers: Sequence[PackedLinear]) -> Collection[int]:
    """Numbers of rows for which these layers take longer than for `ROWS` rows."""
    if not layers:
        return ()
    sizes = accumulate(layer.in_features * layer.out_features for layer in layers)
    layers = [layer for layer, size in zip(layers, sizes, strict=True) if size <= MAX_SWEPT_WEIGHTS] or layers[:1]
    # Remembered, because the bits of a row depend on it, and two starts must give the same.
    about = [torch.__version__, torch.get_num_threads(), *((layer.dtype, layer.in_features) for layer in layers)]
    return store.remembered("packed", about, _numbers, lambda: _measure(layers))


def _numbers(found: Any) -> Collection[int]:
    return [int(rows) for rows in found]


def _measure(layers: Sequence[PackedLinear]) -> Collection[int]:
    best = dict.fromkeys(range(1, ROWS + 1), float("inf"))
    sweeps, begun = 0, time.perf_counter()
    while sweeps < MIN_SWEEPS or time.perf_counter() - begun < SWEEP_SECONDS:
        sweeps += 1
        for rows, fastest in best.items():
            best[rows] = min(fastest, sweep(layers, rows))
    return [rows for rows in range(1, ROWS) if best[ROWS] < MAX_TIME_SHARE * best[rows]]


def sweep(layers: Sequence[PackedLinear], rows: int) -> float:
    """Seconds for `rows` rows through each of the layers."""
    given = [torch.zeros((1, rows, layer.in_features), dtype=layer.dtype) for layer in layers]
    with torch.inference_mode():
        started = time.perf_counter()
        for layer, x in zip(layers, given, strict=True):
            layer(x)
        return time.perf_counter() - started


def _pays(weight: Tensor | None) -> bool:
    """Whether to pack a layer with this weight; quantised layers may have none."""
    return (
        weight is not None and weight.dtype in _TYPES and weight.device.type == "cpu" and weight.numel() >= MIN_WEIGHTS
    )
