"""Attention over the arena equals the library's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from duo.engines.transformers.attention import GROUPED, grouped_attention
from tests.support.reference import engine_of, places_used


@pytest.mark.parametrize("width", [1, 3])
def test_grouped_attention_equals_the_librarys(width: int) -> None:
    torch.manual_seed(0)
    module = torch.nn.Module()
    module.num_key_value_groups = 3  # type: ignore[assignment]
    query, key, value = torch.randn(1, 6, width, 8), torch.randn(1, 2, 11, 8), torch.randn(1, 2, 11, 4)
    mask = torch.where(torch.rand(1, 1, width, 11) < 0.3, torch.finfo(torch.float32).min, 0.0)
    stock: Any = transformers.AttentionInterface
    for given in (mask, mask.expand(1, 6, width, 11), None):
        wanted, _ = stock()["sdpa"](module, query, key, value, given, scaling=0.4, is_causal=False)
        for _ in range(2):  # as two layers of one forward pass
            got, _ = grouped_attention(module, query, key, value, given, scaling=0.4, is_causal=False)
            torch.testing.assert_close(got, wanted)


def test_library_attention_serves_where_the_grouped_one_does_not(folder: str) -> None:
    stock: Any = transformers.AttentionInterface

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise TypeError("never heard of it")

    assert engine_of(folder).attention == GROUPED
    stock.register(GROUPED, broken)
    try:
        engine = engine_of(folder)
    finally:
        stock.register(GROUPED, grouped_attention)
    assert engine.attention == "sdpa" and places_used(engine) == 0
