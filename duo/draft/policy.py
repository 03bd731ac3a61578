"""How much a draft model guesses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Cost = Callable[[int], float]
"""Seconds of a forward pass, by its rows."""

CHILDREN = 4
"""Guesses for one place. The fourth is right about once in thirty times."""

MAX_BATCH_ROWS = 32
"""Rows of one forward pass, including those that only lead to the places to expand."""

MAX_BATCH_PLACES = 8
"""Places of one session that a forward pass expands. Their cost decides how many it is (`gather`)."""

MIN_PROBABILITY = 0.02
"""A place with a less likely path is not expanded, and a less likely guess is not sent."""

OTHERS_WEIGHT = 0.1
"""Weight of a place in another back's share. Where nothing better is left, both backs expand it."""

MAX_RIDERS = 8
"""Committed tokens that are read in the same forward pass as a batch. More are read before it."""

MAX_ROWS = 96
"""Expanded places that a session holds at once. llama.cpp gets slower with the room it keeps for rows, so several
sessions hold fewer each (`row_capacity`)."""

MIN_ROWS = 16
"""Rows for each session at least. With fewer, the committed tokens alone could fill them."""


def row_capacity(slots: int) -> int:
    """Rows that an engine needs room for, for the sessions in all its slots together."""
    return max(MAX_ROWS * min(slots, 2), MIN_ROWS * slots)


@dataclass(frozen=True, slots=True)
class Policy:
    """How to grow a tree.

    `children`: guesses for one place. `batch`: places of a session that one forward pass expands at most. `floor`: the
    least path probability of a place to expand. `gives_up`: end a batch early if a commit makes it useless.
    """

    children: int = CHILDREN
    batch: int = MAX_BATCH_PLACES
    floor: float = MIN_PROBABILITY
    gives_up: bool = True


TREE = Policy()

CHAIN = Policy(children=1, batch=1, floor=0.0, gives_up=False)
"""One line with the likeliest token at each place: the plain asynchronous chain, as llama_duo drafts."""
