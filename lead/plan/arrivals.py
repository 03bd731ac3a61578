"""When the backs' next guesses are due, and what they are likely to bring.

How long after a commit the first message comes that could know of it, how long after one message the next, and how
many expansions a message holds: learned per back from when they used to come. What an expansion reveals is learned
too, as the average chance of its first, second and third guess. A forecast that often fails is trusted less, so a back
that hangs costs nothing but a few short waits.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from lead.plan.tree import Place

RANKS = 3
"""Guesses of an expansion whose chances are remembered."""
OVERDUE = 1.6
"""A message that has taken so many times its usual time is not waited for."""
MIN_KEPT = 0.5
"""A back of whose forecasts fewer come true is not reckoned with until it speaks again."""
SURE_CHANCE = 0.65
"""Chance of a first guess from which on it is called sure."""
SMOOTHING = 0.1
CHANCE_SMOOTHING = 0.03
MAX_BACKS = 64
MAX_MESSAGES = 24
"""Messages looked ahead."""


class Coming(NamedTuple):
    """A message to come: seconds from now, the share of forecasts that come true, and what it may bring: so many
    expansions, and the path probabilities of new nodes, each with that of the place `above` it."""

    seconds: float
    sure: float
    expansions: int
    paths: Sequence[float]
    above: Sequence[float]


class DraftOffer(NamedTuple):
    """When a draft model that the lead itself runs would have expanded something: seconds until the first time, with
    the few tokens that it reads by the way, and from then on between two; and so many places each time. `arrears`:
    seconds more, once, to read what it has left unread for longer."""

    first: float
    then: float
    arrears: float = 0.0
    expansions: int = 1


def offer_of(drafts: Sequence[tuple[int, int]], riders: int, cost: Callable[[int], float]) -> DraftOffer:
    """Of a draft model that for each answer has so many tokens to read, of which `riders` could ride along with what it
    expands, in so many rows. `cost`: seconds for its forward pass, by rows."""
    rows, arrears = 0, 0.0
    for unread, line in drafts:
        rows += line if unread > riders else line + unread
        arrears += cost(unread) if unread > riders else 0.0
    return DraftOffer(cost(rows), cost(len(drafts)), arrears, len(drafts))


class _Times:
    """When one back's messages come. Times in seconds."""

    def __init__(self, gap: float | None = None, size: float = 1.0) -> None:
        self.first: float | None = None
        self.gap = gap
        self.size = size
        """Expansions per message."""
        self.kept = 1.0
        """Share of forecasts that came true."""
        self.waited_for = False
        self._heard = float("-inf")

    def heard(self, now: float, committed: float, surprised: bool, found: Sequence[Place]) -> None:
        self.size = _smooth(self.size, len(found))
        if surprised and self._heard <= committed and all(place.path < 1.0 for place in found):
            return  # of another answer than that of which nothing had been guessed
        if surprised and self._heard > committed:
            self.gap = _smooth(self.gap, now - self._heard)
        elif surprised:
            self.first = _smooth(self.first, now - committed)
        self._heard = now
        self.kept += SMOOTHING * (1 - self.kept)
        self.waited_for = False

    def due(self, now: float, committed: float, surprised: bool) -> float | None:
        """Seconds until the next message may be there; None if nobody knows, or it is overdue."""
        if self.kept < MIN_KEPT:
            return None
        since, usual = now - self._heard, self.gap
        silent = usual is None or since >= OVERDUE * usual
        if self._heard <= committed and (surprised or silent):
            # It has something new to say when it has heard of the commit.
            since, usual = now - committed, self.first
        if usual is None:
            return None
        if since >= OVERDUE * usual:
            if self.waited_for:
                self.kept -= SMOOTHING * self.kept
                self.waited_for = False
            return None
        return usual - since if since < usual else OVERDUE * usual - since

    def passed(self, committed: float, now: float) -> None:
        """From one commit, to a place of which nothing had been guessed, to the next."""
        if self.first is not None and self._heard <= committed and now - committed > OVERDUE * self.first:
            self.kept -= SMOOTHING * self.kept

    @property
    def every(self) -> float:
        """Seconds from one message to the next, above 0."""
        return max(self.gap or self.first or 0.0, 1e-6)


class Arrivals:
    """The messages to come, of all backs."""

    def __init__(self) -> None:
        self._backs: dict[str, _Times] = {}
        self._usual = [0.6, 0.12, 0.06]
        self._kinds = [[0.35, 0.18, 0.1], [0.85, 0.06, 0.03]]
        """The same where the first guess is unsure, and where it is sure."""
        self._sure = 0.5
        """Share of the latter."""

    def heard(self, now: float, back: str, committed: float, surprised: bool, found: Sequence[Place]) -> None:
        """Guesses of a back arrived at `now`; the last commit was at `committed`, `surprised`: to a place of which nothing
        had been guessed."""
        self.revealed(found)
        if back not in self._backs and len(self._backs) >= MAX_BACKS:
            del self._backs[next(iter(self._backs))]
        self._backs.setdefault(back, _Times()).heard(now, committed, surprised, found)

    @property
    def nobody(self) -> bool:
        """Whether no back is known."""
        return not self._backs

    def pace(self, back: str) -> float:
        """Seconds from one expansion of a back to the next; infinite where that is not known."""
        times = self._backs.get(back)
        return times.every / max(1.0, times.size) if times is not None else float("inf")

    def forget(self, back: str) -> None:
        """This back is gone."""
        self._backs.pop(back, None)

    def passed(self, committed: float, now: float) -> None:
        """From one commit, to a place of which nothing had been guessed, to the next: whoever was silent says less than
        was forecast, whether it was waited for or not."""
        for times in self._backs.values():
            times.passed(committed, now)

    def revealed(self, found: Sequence[Place]) -> None:
        """What somebody has guessed. It counts as much as the place is likely: where the answer will not come a draft
        model is less sure."""
        for place in found:
            ranked = sorted(place.guesses.probabilities, reverse=True)[:RANKS]
            ranked += [0.0] * (RANKS - len(ranked))
            sure = ranked[0] >= SURE_CHANCE
            for chances in (self._usual, self._kinds[sure]):
                for rank, chance in enumerate(ranked):
                    chances[rank] += CHANCE_SMOOTHING * place.path * (chance - chances[rank])
            self._sure += CHANCE_SMOOTHING * place.path * (sure - self._sure)

    @property
    def kinds(self) -> list[tuple[float, Sequence[float]]]:
        """What an expansion may turn out to be: how often, and with which chances of its guesses."""
        return [(1 - self._sure, self._kinds[False]), (self._sure, self._kinds[True])]

    def due(self, now: float, committed: float, surprised: bool, within: float) -> list[tuple[float, str]]:
        """Whose next message may be there in how many seconds, soonest first."""
        times = [(times.due(now, committed, surprised), name) for name, times in self._backs.items()]
        return sorted((due, name) for due, name in times if due is not None and due < within)

    def every(self, due: Sequence[tuple[float, str]]) -> float:
        """Seconds from one expansion to the next, of all these backs together; 0 where there is none."""
        return 1 / sum(1 / self.pace(name) for _, name in due) if due else 0.0

    def sure(self, due: Sequence[tuple[float, str]]) -> float:
        """The share of such forecasts, of the one that is due first, that comes true."""
        return self._backs[due[0][1]].kept

    def wait(self, back: str) -> None:
        """This back's message is being waited for."""
        self._backs[back].waited_for = True

    def coming(
        self,
        due: Sequence[tuple[float, str]],
        leaves: Sequence[float],
        within: float,
        offer: DraftOffer | None = None,
        first: Sequence[float] = (),
        ranks: int = RANKS,
    ) -> Iterator[Coming]:
        """What will be there in `within` seconds, as the likeliest leaves are expanded, one after the other.

        `due`: as `due` returned it; `leaves`: path probabilities of the nodes below which nothing is known; `offer`: of
        the local draft model, if it is to draft meanwhile. `first`: what the first of them reveals, if not the usual.
        `ranks`: how many guesses of an expansion are of use, 1 where chains are verified.
        """
        frontier = [-path for path in leaves]
        heapq.heapify(frontier)
        queue = [(seconds, name, self._backs[name]) for seconds, name in due]
        if offer is not None:
            heapq.heappush(queue, (offer.first, "", _Times(offer.then, offer.expansions)))
        sure = 1.0
        for _ in range(MAX_MESSAGES):
            if not queue or queue[0][0] > within:
                return
            seconds, name, times = queue[0]
            heapq.heapreplace(queue, (seconds + times.every, name, times))
            sure = min(sure, times.kept)
            paths, above = list[float](), list[float]()
            expansions = min(max(1, round(times.size)), len(frontier))
            for _ in range(expansions):
                path = -heapq.heappop(frontier)
                for chance in (first or self._usual)[:ranks]:
                    paths.append(path * chance)
                    above.append(path)
                    heapq.heappush(frontier, -path * chance)
                first = ()
            yield Coming(seconds, sure, expansions, paths, above)


def _smooth(old: float | None, new: float) -> float:
    return new if old is None else old + SMOOTHING * (new - old)
