"""Which slots share a forward pass, if llama.cpp computes equally many rows of each sequence.

Models with recurrent layers, or with a stream of KV cells per sequence, compute a batch in parts. Each part has equally
many rows of its sequences (`split_equal`), and reads all weights. So the parts are chosen here and decoded one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import NamedTuple


class Pass(NamedTuple):
    """One decode: these slots, ascending, with `width` rows each. Slots with fewer rows are padded."""

    slots: Sequence[int]
    width: int


def passes(
    rows: Mapping[int, int], apart: bool, snapshots: int = 0, max_rows: int = 0, max_padding: float = 1.0
) -> list[Pass]:
    """Divide the slots into decodes, in the order in which they must run. rows: of each slot.

    apart: each slot has its own stream of cells, so only neighbouring sequences share a part. snapshots: states of
    earlier rows that the model keeps. A part with several sequences may move the states of others and leave their
    snapshots behind. So at most one such part has several rows of a slot; other slots with several rows come later,
    alone. max_rows, max_padding: one part with all slots padded may have at most `max_rows` rows, and at most
    `max_padding` times as many as there are.
    """
    slots = sorted(rows)
    if len(slots) < 2:
        return [Pass([slot], rows[slot]) for slot in slots]
    runs = _runs(slots, apart)
    longest = max(rows.values())
    padded = longest * len(slots)
    if len(runs) == 1 and padded <= max_rows and padded <= max_padding * sum(rows.values()):
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
    """Slots that can share a part: all, or runs without a gap."""
    if not apart:
        return [list(slots)]
    runs: list[list[int]] = []
    for slot in slots:
        if runs and slot == runs[-1][-1] + 1:
            runs[-1].append(slot)
        else:
            runs.append([slot])
    return runs
