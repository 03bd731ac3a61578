"""Copies of slots."""

from __future__ import annotations

import numpy as np
import pytest

from duo.engines.slot_copy import SlotCopy


def test_what_is_left_of_a_copy() -> None:
    free = SlotCopy(10, {}, {})
    assert [free.restorable(length) for length in (0, 4, 10, 12)] == [0, 4, 10, 10]
    marked = SlotCopy(10, {}, {}, [4, 8, 10])
    assert [marked.restorable(length) for length in (0, 3, 4, 9, 10, 12)] == [0, 0, 4, 8, 10, 10]


def test_arrays_by_name() -> None:
    raw, wide = np.arange(4, dtype=np.uint8), np.zeros((2, 2))
    copy = SlotCopy(1, {"raw": raw, "wide": wide}, {})
    assert copy.bytes == 4 + 32
    assert copy.raw("raw") is raw
    with pytest.raises(ValueError, match="no is missing"):
        copy.raw("no")
    with pytest.raises(ValueError, match="wide is no row of bytes"):
        copy.raw("wide")
