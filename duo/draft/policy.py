"""What a draft model guesses, and how much of it: the limits of a policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Cost = Callable[[int], float]

CHILDREN = 4
"""Guesses per expansion. The fourth is right about once in thirty times."""

MOST = 32
"""Most rows of a batch, with those that ride along and those above the nodes that are expanded."""

BATCH = 8
"""Most nodes of a session expanded in one forward pass. How many are is decided by what they cost (`gather`)."""

FLOOR = 0.02
"""Nodes of less path probability are not worth a forward pass, nor is a guess of less than this chance worth a place
in a message."""

OTHERS = 0.1
"""What a place counts for that is another back's to expand: where there is nothing better, both do."""

RIDERS = 8
"""Committed tokens that are read in the same forward pass as the batch. More are read before."""

MAX_ROWS = 96
"""Most expanded nodes that a session holds at once. llama.cpp's time per forward pass grows with the room it keeps for
them, so several sessions do not have so many each (`room`)."""

LEAST_ROWS = 16
"""What each has at least, or there would be no room for more than the committed tokens that ride along."""


def room(slots: int) -> int:
    """Rows that an engine with so many slots is to have room for, for all sessions together."""
    return max(MAX_ROWS * min(slots, 2), LEAST_ROWS * slots)


@dataclass(frozen=True, slots=True)
class Policy:
    """How to grow: `children` per expansion, at most `batch` expansions of a session at once, none less probable than
    `floor`.
    `gives_up`: whether a batch ends early that a commit has made obsolete."""

    children: int = CHILDREN
    batch: int = BATCH
    floor: float = FLOOR
    gives_up: bool = True


TREE = Policy()

CHAIN = Policy(children=1, batch=1, floor=0.0, gives_up=False)
"""One line, the likeliest token at each place: the plain asynchronous chain, as llama_duo drafts it."""
