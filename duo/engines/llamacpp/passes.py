"""Which slots share a forward pass, where llama.cpp wants as many rows of every sequence in it.

A model with recurrent layers, or with a stream of KV cells per sequence, computes a batch in parts of equally many rows
per sequence (`split_equal`). Each part reads all weights. So the parts are chosen here, and given one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import NamedTuple


class Pass(NamedTuple):
    """One decode: these slots, in ascending order, with `width` rows each. Slots that have fewer are padded."""

    slots: Sequence[int]
    width: int


def passes(rows: Mapping[int, int], apart: bool, snapshots: int = 0, most: int = 0, waste: float = 1.0) -> list[Pass]:
    """Divide slots with so many rows each into decodes, in the order in which they are to be made.

    apart: each slot has a stream of cells of its own. Then only neighbouring sequences share a part. snapshots: states
    of earlier rows that the model keeps. A part with several sequences may move the states of others, and leaves their
    snapshots behind. So what has several rows comes after all such parts, but for one. most, waste: pad all slots to
    one part if that makes at most `most` rows, and at most `waste` times as many as there are.
    """
    slots = sorted(rows)
    if len(slots) < 2:
        return [Pass([slot], rows[slot]) for slot in slots]
    runs = _runs(slots, apart)
    longest = max(rows.values())
    padded = longest * len(slots)
    if len(runs) == 1 and padded <= most and padded <= waste * sum(rows.values()):
        return [Pass(slots, longest)]
    by_width = groupby(sorted(slots, key=lambda slot: (rows[slot], slot)), key=lambda slot: rows[slot])
    parts = [Pass(run, width) for width, alike in by_width for run in _runs(list(alike), apart)]
    if not snapshots:
        return parts
    shared = max((part for part in parts if part.width > 1), key=lambda part: len(part.slots), default=None)
    early = [part for part in parts if part.width == 1]
    late = [part for part in parts if part.width > 1 and part is not shared]
    alone = [Pass([slot], part.width) for part in late for slot in part.slots]
    return [*early, *([shared] if shared else []), *alone]


def _runs(slots: Sequence[int], apart: bool) -> list[list[int]]:
    """Slots that can share a part: all, or those without a gap between."""
    if not apart:
        return [list(slots)]
    runs: list[list[int]] = []
    for slot in slots:
        if runs and slot == runs[-1][-1] + 1:
            runs[-1].append(slot)
        else:
            runs.append([slot])
    return runs
