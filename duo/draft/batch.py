"""One forward pass of a draft model for several sessions: which rows it has."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from duo.draft.draft import Draft
from duo.draft.policy import MAX_BATCH_ROWS, Cost
from duo.engines.base import Row


@dataclass(slots=True, eq=False)
class Part:
    """One session's part of a batch: its rows, how many places they expand, and the sum of the places' weights."""

    draft: Draft
    slot: int
    rows: list[Row] = field(default_factory=list)
    expanded: int = 0
    weight: float = 0.0


def gather(drafts: Iterable[tuple[Draft, int]], cost: Cost) -> list[Part]:
    """The next batch for some sessions, each given with its slot, after `Draft.update_cache`.

    It expands the likeliest places of all sessions. Equal places go in the order of the sessions. A place is added
    while its weight per cost is above the batch's average: a sure draft goes deep, an unsure one wide. A session that
    has nothing to expand, or nothing good enough beside the others, has no part.
    """
    parts = [Part(draft, slot) for draft, slot in drafts if draft.begin_batch()]
    growing = list(parts)
    total, rows = 0.0, 0
    while growing:
        part = growing[0] if len(growing) == 1 else max(growing, key=lambda part: part.draft.weight)
        draft, weight = part.draft, part.draft.weight
        line = draft.next_line() if part.expanded < draft.policy.batch else None
        if line is not None and rows:
            wider = rows + len(line) + (0 if part.rows else draft.unread)
            if wider > MAX_BATCH_ROWS or weight * (so_far := cost(rows)) < total * (cost(wider) - so_far):
                line = None
        if line is None:
            growing.remove(part)
            continue
        before = len(part.rows)
        if not part.expanded:
            part.rows += draft.add_riders(part.slot)
        part.rows += draft.add_line(line, part.slot)
        part.expanded += 1
        part.weight += weight
        total += weight
        rows += len(part.rows) - before
    return [part for part in parts if part.rows]


def next_batch(draft: Draft, slot: int) -> list[Row]:
    """The rows of a forward pass for one session alone; none if it has nothing to expand."""
    return [row for part in gather([(draft, slot)], draft.cost) for row in part.rows]
