"""When the backs' next guesses are due, and what they are likely to bring.

How long after a commit the first message comes that could know of it, how long after one message the next, and how
many expansions a message holds: learned per back from when they used to come. What an expansion reveals is learned
too, as the average chance of its first, second and third guess. A forecast that often fails is trusted less, so a back
that hangs costs nothing but a few short waits.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import NamedTuple

RANKS = 3
"""Guesses of an expansion whose chances are remembered."""
GIVE_UP = 1.6
"""A message that has taken so many times its usual time is not waited for."""
SMOOTHING = 0.1
CHANCE_SMOOTHING = 0.03
MOST_BACKS = 64
HORIZON = 24
"""Messages looked ahead."""


class Coming(NamedTuple):
    """A message to come: seconds from now, the share of forecasts that come true, and what it may bring: path
    probabilities of new nodes."""

    seconds: float
    sure: float
    paths: Sequence[float]


class _Times:
    """When one back's messages come. Times in seconds."""

    def __init__(self) -> None:
        self.first: float | None = None
        self.gap: float | None = None
        self.size = 1.0
        """Expansions per message."""
        self.kept = 1.0
        """Share of forecasts that came true."""
        self.waited_for = False
        self._heard = float("-inf")

    def heard(self, now: float, committed: float, anew: bool, size: int) -> None:
        if anew and self._heard > committed:
            self.gap = _smooth(self.gap, now - self._heard)
        elif anew:
            self.first = _smooth(self.first, now - committed)
        self.size = _smooth(self.size, size)
        self._heard = now
        if self.waited_for:
            self.kept += SMOOTHING * (1 - self.kept)
            self.waited_for = False

    def due(self, now: float, committed: float, anew: bool) -> float | None:
        """Seconds until the next message may be there; None if nobody knows, or it is overdue."""
        since, usual = now - self._heard, self.gap
        silent = usual is None or since >= GIVE_UP * usual
        if self._heard <= committed and (anew or silent):
            # It has something new to say when it has heard of the commit.
            since, usual = now - committed, self.first
        if usual is None:
            return None
        if since >= GIVE_UP * usual:
            if self.waited_for:
                self.kept -= SMOOTHING * self.kept
                self.waited_for = False
            return None
        return usual - since if since < usual else GIVE_UP * usual - since

    @property
    def every(self) -> float:
        """Seconds from one message to the next, above 0."""
        return max(self.gap or self.first or 0.0, 1e-6)


class Forecast:
    """The messages to come, of all backs."""

    def __init__(self) -> None:
        self._backs: dict[str, _Times] = {}
        self._chances = [0.6, 0.12, 0.06]

    def heard(self, now: float, back: str, committed: float, anew: bool, found: Sequence[Sequence[float]]) -> None:
        """Guesses of a back arrived at `now`, per expansion the chances of its tokens; the last commit was at
        `committed`, `anew`: to a place of which nothing had been guessed."""
        for chances in found:
            ranked = sorted(chances, reverse=True)
            for rank in range(RANKS):
                chance = ranked[rank] if rank < len(ranked) else 0.0
                self._chances[rank] += CHANCE_SMOOTHING * (chance - self._chances[rank])
        if back not in self._backs and len(self._backs) >= MOST_BACKS:
            del self._backs[next(iter(self._backs))]
        self._backs.setdefault(back, _Times()).heard(now, committed, anew, len(found))

    def due(self, now: float, committed: float, anew: bool, within: float) -> list[tuple[float, str]]:
        """Whose next message may be there in how many seconds, soonest first."""
        times = [(times.due(now, committed, anew), name) for name, times in self._backs.items()]
        return sorted((due, name) for due, name in times if due is not None and due < within)

    def wait(self, back: str) -> None:
        """This back's message is being waited for."""
        self._backs[back].waited_for = True

    def coming(self, due: Sequence[tuple[float, str]], leaves: Sequence[float], within: float) -> Iterator[Coming]:
        """What will be there in `within` seconds, as the likeliest leaves are expanded, one after the other.

        `due`: as `due` returned it; `leaves`: path probabilities of the nodes below which nothing is known.
        """
        frontier = [-path for path in leaves]
        heapq.heapify(frontier)
        queue = [(seconds, name, self._backs[name]) for seconds, name in due]
        sure = 1.0
        for _ in range(HORIZON):
            if not queue or queue[0][0] > within:
                return
            seconds, name, times = queue[0]
            heapq.heapreplace(queue, (seconds + times.every, name, times))
            sure = min(sure, times.kept)
            paths: list[float] = []
            for _ in range(min(round(times.size), len(frontier))):
                path = -heapq.heappop(frontier)
                for chance in self._chances:
                    paths.append(path * chance)
                    heapq.heappush(frontier, -path * chance)
            yield Coming(seconds, sure, paths)


def _smooth(old: float | None, new: float) -> float:
    return new if old is None else old + SMOOTHING * (new - old)
