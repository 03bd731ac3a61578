"""Which earlier states of a slot are kept to go back to: a bounded number, spread over what the slot has read."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

SPACING = 256
"""Tokens between two checkpoints, until there are too many of them."""

MOST = 32
"""Checkpoints of a slot at most. llama-server keeps as many."""

LEAST = 2
"""Checkpoints of a slot at most, where states are so large that fewer would fit the bytes allowed."""


BEFORE_END = 8
"""Tokens before the end of what is read where a checkpoint is taken too: templates may write the last ones otherwise
once the answer is there."""


def marks(begin: int, end: int) -> list[int]:
    """Where checkpoints are taken while a slot goes from `begin` to `end` tokens, both left out."""
    spaced = range((begin // SPACING + 1) * SPACING, end, SPACING)
    return sorted({*spaced, *([end - BEFORE_END] if end - BEFORE_END > begin else [])})


def within(limit: int) -> int:
    """The limit cut to what is sensible."""
    return min(MOST, max(LEAST, limit))


class Checkpoints:
    """Those of one slot. `limit`: how many of them at most."""

    def __init__(self, limit: int = MOST) -> None:
        self._limit = limit
        self._lengths: list[int] = []
        self._kept: dict[int, Any] = {}

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens that the slot held at each, rising."""
        return tuple(self._lengths)

    def due(self, length: int) -> bool:
        """Whether the latest checkpoint is too far behind."""
        return length - self.before(length) >= SPACING

    def add(self, length: int, state: Any) -> None:
        """Keep one. Where there are too many, the one goes without which the widest gap grows least."""
        if length <= 0 or length in self._kept:
            return
        self.cut(length)
        self._lengths.append(length)
        self._kept[length] = state
        if len(self._lengths) > self._limit:
            edges = [0, *self._lengths]
            gaps = [edges[at + 1] - edges[at - 1] for at in range(1, len(edges) - 1)]
            self._kept.pop(self._lengths.pop(gaps.index(min(gaps))))

    def before(self, length: int) -> int:
        """The last checkpoint at or before so many tokens; 0, which needs none, if there is none."""
        at = bisect_right(self._lengths, length)
        return self._lengths[at - 1] if at else 0

    def at(self, length: int) -> Any:
        """What was kept there; None for 0 tokens."""
        return self._kept[length] if length else None

    def cut(self, length: int) -> None:
        """Forget those of more tokens."""
        while self._lengths and self._lengths[-1] > length:
            self._kept.pop(self._lengths.pop())

    def copy(self, length: int) -> Checkpoints:
        """Those up to so many tokens, for another slot. What they hold is shared, and nothing changes it."""
        other = Checkpoints(self._limit)
        other._lengths = [each for each in self._lengths if each <= length]
        other._kept = {each: self._kept[each] for each in other._lengths}
        return other
