"""Which row follows which in a forward pass. Made once per pass for all recurrent layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


class FreshRow(NamedTuple):
    """A row of the next pass. at: its number in the pass. trail: places of its live ancestors and of itself."""

    slot: int
    at: int
    trail: Sequence[int]


class Span(NamedTuple):
    """A chunk of a prompt: the pass's rows from `begin` to `end`. The slot has `length` tokens after it."""

    slot: int
    begin: int
    end: int
    length: int


@dataclass(slots=True)
class Plan:
    """One forward pass, as all layers need it. Rows lie in a batch: an entry for each slot, padded to the longest."""

    spans: Sequence[Span]
    rows: Sequence[FreshRow]
    slots: list[int]
    """The slots that have rows."""
    at: Tensor
    """[slots, most rows]: numbers of the rows in the pass."""
    flat: Tensor
    """[rows]: where each row is in the flattened batch."""
    numbers: Tensor
    """[rows]: the rows' numbers in the pass."""
    places: Tensor
    """[rows]: their places in the memory of recurrent layers."""
    earlier: Tensor | None
    """[slots, most live rows]: places of the rows that were live before."""
    sees: Tensor
    """[slots, most rows, most live rows + most rows]: whether a row sees that row."""
    above: Tensor | None
    """[slots, most rows]: place of the nearest earlier ancestor, or -1."""
    whole: bool
    """Whether the pass has rows of one slot and nothing else. Then batch and pass are the same."""
    last: Sequence[bool]
    """[rows]: whether no later row of the pass has the same parent."""


def planned(
    spans: Sequence[Span], rows: Sequence[FreshRow], lives: Sequence[Sequence[int]], device: torch.device
) -> Plan:
    """The plan of a pass. lives: the places of each slot's live rows."""
    slots = list(dict.fromkeys(row.slot for row in rows))
    numbers = {slot: [i for i, row in enumerate(rows) if row.slot == slot] for slot in slots}
    widest = max((len(each) for each in numbers.values()), default=0)
    deepest = max((len(lives[slot]) for slot in slots), default=0)
    at = np.zeros((len(slots), widest), dtype=np.int64)
    earlier = np.zeros((len(slots), deepest), dtype=np.int64)
    above = np.full((len(slots), widest), -1, dtype=np.int64)
    # Padding rows see themselves, for no row may have 0 keys.
    sees = np.zeros((len(slots), widest, deepest + widest), dtype=np.bool_)
    sees[:, :, deepest:] |= np.eye(widest, dtype=np.bool_)
    flat = np.zeros(len(rows), dtype=np.int64)
    for index, slot in enumerate(slots):
        live = {place: number for number, place in enumerate(lives[slot])}
        earlier[index, : len(live)] = lives[slot]
        fresh: dict[int, int] = {}
        for column, number in enumerate(numbers[slot]):
            row = rows[number]
            at[index, column], flat[number] = row.at, index * widest + column
            fresh[row.trail[-1]] = column
            for ancestor in row.trail[:-1]:
                if ancestor in fresh:
                    sees[index, column, deepest + fresh[ancestor]] = True
                else:
                    sees[index, column, live[ancestor]] = True
                    above[index, column] = ancestor

    def on_device(array: Any) -> Tensor:
        return torch.from_numpy(array).to(device)

    parents = [row.trail[-2] if len(row.trail) > 1 else -1 for row in rows]
    last = [parent not in parents[number + 1 :] for number, parent in enumerate(parents)]
    whole = len(slots) == 1 and not spans
    all_numbers = np.array([row.at for row in rows], dtype=np.int64)
    places = np.array([row.trail[-1] for row in rows], dtype=np.int64)
    return Plan(
        spans, rows, slots, on_device(at), on_device(flat), on_device(all_numbers), on_device(places),
        on_device(earlier) if deepest else None, on_device(sees), on_device(above) if deepest else None, whole, last,
    )  # fmt: skip


def taps(plan: Plan, reach: int, live: int) -> Tensor:
    """[rows, reach + 1]: where a row's convolution finds its inputs; the last one is the row itself.

    These are indices into three things side by side: the windows of the plan's slots (`reach` inputs each), `live`
    places of live rows, and the rows of the pass.
    """
    windows = reach * len(plan.slots)
    where = {row.trail[-1]: windows + live + row.at for row in plan.rows}
    first = {slot: index * reach for index, slot in enumerate(plan.slots)}
    numbers = np.zeros((len(plan.rows), reach + 1), dtype=np.int64)
    for tap, row in zip(numbers, plan.rows, strict=True):
        trail = [where.get(place, windows + place) for place in row.trail[-reach - 1 :]]
        missing = reach + 1 - len(trail)
        tap[:missing] = first[row.slot] + reach - missing + np.arange(missing)
        tap[missing:] = trail
    return torch.from_numpy(numbers).to(plan.at.device)
