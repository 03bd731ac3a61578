"""Which slots share a decode."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from duo.engines.llamacpp.passes import Pass, passes

ROWS = st.dictionaries(st.integers(0, 9), st.integers(1, 9), min_size=1)


def slots(parts: list[Pass]) -> list[list[int]]:
    return [list(part.slots) for part in parts]


def test_slots_with_as_many_rows_share_a_decode() -> None:
    assert passes({3: 2, 0: 1, 5: 1, 1: 2}, apart=False) == [Pass([0, 5], 1), Pass([1, 3], 2)]
    assert passes({}, apart=False) == []


def test_with_cells_apart_only_neighbours_do() -> None:
    assert slots(passes({0: 1, 1: 1, 3: 1}, apart=True)) == [[0, 1], [3]]


def test_padding_makes_one_of_several() -> None:
    assert passes({0: 4, 1: 5}, apart=False, max_rows=20, max_padding=1.5) == [Pass([0, 1], 5)]
    assert len(passes({0: 1, 1: 5}, apart=False, max_rows=20, max_padding=1.5)) == 2
    assert len(passes({0: 4, 1: 5}, apart=False, max_rows=9, max_padding=1.5)) == 2
    assert len(passes({0: 4, 2: 5}, apart=True, max_rows=20, max_padding=1.5)) == 2


@given(ROWS, st.booleans(), st.integers(0, 8), st.integers(0, 90), st.floats(1.0, 9.0))
def test_every_slot_has_one_decode_with_room_for_its_rows(
    rows: dict[int, int], apart: bool, snapshots: int, most: int, waste: float
) -> None:
    parts = passes(rows, apart, snapshots, most, waste)
    assert sorted(slot for part in parts for slot in part.slots) == sorted(rows)
    for part in parts:
        assert list(part.slots) == sorted(part.slots)
        assert all(rows[slot] <= part.width for slot in part.slots)
        assert not apart or part.slots[-1] - part.slots[0] == len(part.slots) - 1
    padded = [part for part in parts if any(rows[slot] < part.width for slot in part.slots)]
    assert not padded or len(parts) == 1
    if snapshots:
        # After the decode of a slot with snapshots, no other decode moves the states of several slots.
        for at, part in enumerate(parts):
            assert len(part.slots) == 1 or all(earlier.width == 1 for earlier in parts[:at])
