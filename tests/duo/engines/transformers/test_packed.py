"""Linear layers laid out once compute what they did before, filled up or not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from duo.engines.transformers import packed
from duo.engines.transformers.packed import MIN_PADDED_WEIGHTS, ROWS, PackedLinear, pack

pytestmark = pytest.mark.skipif(not packed.possible(), reason="this PyTorch has no oneDNN")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_rows_padded(dtype: torch.dtype, bias: bool) -> None:
    linear = nn.Linear(96, 160, bias=bias).to(dtype)
    layer = PackedLinear(linear)
    layer.padded = (1, 2)
    with torch.inference_mode():
        for shape in ((96,), (1, 1, 96), (1, 2, 96), (1, 3, 96), (1, 9, 96), (2, 96), (2, 2, 96)):
            x = torch.randn(shape).to(dtype)
            wanted, got = linear(x), layer(x)
            assert got.shape == wanted.shape
            assert torch.allclose(got.float(), wanted.float(), rtol=2e-2, atol=1e-5 if dtype == torch.float32 else 2e-2)


class _Clock:
    """Fakes the seconds of sweeps: `taken` lists them for each number of rows, in turn."""

    def __init__(self, taken: Iterator[float]) -> None:
        self._taken = taken
        self._now = 0.0

    def sweep(self, layers: object, rows: int) -> float:
        self._now += packed.SWEEP_SECONDS
        return next(self._taken)

    def now(self) -> float:
        return self._now


@pytest.mark.parametrize(
    ("taken", "padded"),
    [
        ([1.3, 1.6, 1.05, 1.0] * 2, [1, 2]),
        ([1.0, 1.0, 1.0, 1.0] * 2, []),
        # One disturbed sweep does not count.
        ([1.0, 1.0, 1.0, 1.0, 1.9, 1.0, 1.0, 0.95], []),
        ([1.3, 1.3, 1.3, 2.0, 1.3, 1.3, 1.3, 1.0], [1, 2, 3]),
    ],
)
def test_what_is_padded_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, taken: list[float], padded: list[int]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    clock = _Clock(iter(taken))
    monkeypatch.setattr(packed, "sweep", clock.sweep)
    monkeypatch.setattr("duo.engines.transformers.packed.time.perf_counter", clock.now)
    width = int(MIN_PADDED_WEIGHTS**0.5)
    model = nn.Sequential(nn.Linear(width, width), nn.Linear(width, width // 2), nn.Linear(8, 8))
    pack(model)
    large, middle, small = model
    assert isinstance(large, PackedLinear) and large.padded == padded
    assert isinstance(middle, PackedLinear) and middle.padded == ()
    assert type(small) is nn.Linear
    monkeypatch.delattr(packed, "sweep")
    again = nn.Sequential(nn.Linear(width, width), nn.Linear(width, width // 2))
    pack(again)
    assert isinstance(again[0], PackedLinear) and again[0].padded == padded, "the next start does the same"


def test_a_sweep_takes_time() -> None:
    assert packed.sweep([PackedLinear(nn.Linear(64, 64))], ROWS) > 0.0


def test_without_large_layers_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(packed, "sweep")
    pack(nn.Sequential(nn.Linear(8, 8)))
