"""One forward pass of a draft model for several sessions: whose rows it has."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from duo.draft.draft import Draft
from duo.draft.policy import MOST, Cost
from duo.engines.base import Row


@dataclass(slots=True, eq=False)
class Part:
    """What one session has of a batch: rows that expand so many places, which together count for `worth`."""

    draft: Draft
    slot: int
    rows: list[Row] = field(default_factory=list)
    expanded: int = 0
    worth: float = 0.0


def gather(drafts: Iterable[tuple[Draft, int]], cost: Cost) -> list[Part]:
    """The next batch of some sessions, each with its slot, after `settle`: the rows that expand the likeliest nodes of
    all. A session without a part has nothing to expand, or nothing worth it beside the others.

    Where two count the same, the session that comes first has the first place. A sure draft goes deep, one row at a
    time; an unsure one goes wide.
    """
    parts = [Part(draft, slot) for draft, slot in drafts if draft.begin_batch()]
    growing = list(parts)
    worth, rows = 0.0, 0
    while growing:
        part = growing[0] if len(growing) == 1 else max(growing, key=lambda part: part.draft.weight)
        draft, weight = part.draft, part.draft.weight
        line = draft.pop_line() if part.expanded < draft.policy.batch else None
        if line is not None and rows:
            wider = rows + len(line) + (0 if part.rows else draft.unread)
            # One more as long as it brings more for its cost than the batch does on average.
            if wider > MOST or weight * (so_far := cost(rows)) < worth * (cost(wider) - so_far):
                line = None
        if line is None:
            growing.remove(part)
            continue
        before = len(part.rows)
        if not part.expanded:
            part.rows += draft.ride(part.slot)
        part.rows += draft.grow(line, part.slot)
        part.expanded += 1
        part.worth += weight
        worth += weight
        rows += len(part.rows) - before
    return [part for part in parts if part.rows]


def next_batch(draft: Draft, slot: int) -> list[Row]:
    """The rows of a forward pass for one session alone; empty: it has nothing to expand."""
    return [row for part in gather([(draft, slot)], draft.cost) for row in part.rows]
