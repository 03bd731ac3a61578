"""When the backs' next guesses are due, and what they are likely to bring.

Three things are learned of each back: the time from a commit to the first message that could know of it, the time from
one message to the next, and the number of expansions in a message. What an expansion reveals is learned too: the
average chances of its first, second and third guess. A forecast that often fails is trusted less, so a back that hangs
costs a few short waits.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from lead.plan.tree import Place

RANKS = 3
"""Guesses of an expansion whose average chances are learned."""
OVERDUE = 1.6
"""Nobody waits for a message that has taken this many times its usual time."""
MIN_KEPT = 0.5
"""If a smaller share of a back's forecasts comes true, it is ignored until its next message."""
SURE_CHANCE = 0.65
"""A first guess is sure if its chance is at least this."""
SMOOTHING = 0.1
CHANCE_SMOOTHING = 0.03
MAX_BACKS = 64
MAX_MESSAGES = 24
"""How many messages to look ahead."""


class Coming(NamedTuple):
    """A message to come. `sure`: the share of such forecasts that come true. `paths`: path probabilities of the nodes
    that it may bring. `above`: of the place above each."""

    seconds: float
    sure: float
    expansions: int
    paths: Sequence[float]
    above: Sequence[float]


class DraftOffer(NamedTuple):
    """What expanding takes of the draft model beside the target, in seconds: the first time, with the few tokens that
    ride along, and each time after that. `arrears`: more, once, to read what it has left unread for longer.
    `expansions`: places that it expands each time."""

    first: float
    then: float
    arrears: float = 0.0
    expansions: int = 1


def offer_of(drafts: Sequence[tuple[int, int]], riders: int, cost: Callable[[int], float]) -> DraftOffer:
    """`drafts`: for each answer, the tokens to read and the rows to expand. Up to `riders` tokens ride along with these
    rows. `cost`: seconds of a forward pass of the draft model, by rows."""
    rows, arrears = 0, 0.0
    for unread, line in drafts:
        rows += line if unread > riders else line + unread
        arrears += cost(unread) if unread > riders else 0.0
    return DraftOffer(cost(rows), cost(len(drafts)), arrears, len(drafts))


class _Times:
    """When the messages of one back come. Times in seconds."""

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
            return  # for another answer than the one without guesses
        if surprised and self._heard > committed:
            self.gap = _smooth(self.gap, now - self._heard)
        elif surprised:
            self.first = _smooth(self.first, now - committed)
        self._heard = now
        self.kept += SMOOTHING * (1 - self.kept)
        self.waited_for = False

    def due(self, now: float, committed: float, surprised: bool) -> float | None:
        """Seconds until the next message may come; None if unknown or overdue."""
        if self.kept < MIN_KEPT:
            return None
        since, usual = now - self._heard, self.gap
        silent = usual is None or since >= OVERDUE * usual
        if self._heard <= committed and (surprised or silent):
            # The next message comes once the back has heard of the commit.
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
        """The step after a commit to a place without guesses has ended. A silent back has failed its forecast."""
        if self.first is not None and self._heard <= committed and now - committed > OVERDUE * self.first:
            self.kept -= SMOOTHING * self.kept

    @property
    def every(self) -> float:
        """Seconds from one message to the next, above 0."""
        return max(self.gap or self.first or 0.0, 1e-6)


class Arrivals:
    """The coming messages of all backs."""

    def __init__(self) -> None:
        self._backs: dict[str, _Times] = {}
        self._usual = [0.6, 0.12, 0.06]
        self._kinds = [[0.35, 0.18, 0.1], [0.85, 0.06, 0.03]]
        """The same for expansions whose first guess is unsure, and sure."""
        self._sure = 0.5
        """Share of expansions whose first guess is sure."""

    def heard(self, now: float, back: str, committed: float, surprised: bool, found: Sequence[Place]) -> None:
        """Guesses of a back arrived at `now`. The last commit was at `committed`. `surprised`: it led to a place
        without guesses."""
        self.revealed(found)
        if back not in self._backs and len(self._backs) >= MAX_BACKS:
            del self._backs[next(iter(self._backs))]
        self._backs.setdefault(back, _Times()).heard(now, committed, surprised, found)

    @property
    def nobody(self) -> bool:
        """Whether no back is known."""
        return not self._backs

    def pace(self, back: str) -> float:
        """Seconds from one expansion of a back to the next; infinite if unknown."""
        times = self._backs.get(back)
        return times.every / max(1.0, times.size) if times is not None else float("inf")

    def forget(self, back: str) -> None:
        """This back is gone."""
        self._backs.pop(back, None)

    def passed(self, committed: float, now: float) -> None:
        """The step after a commit to a place without guesses has ended. Silent backs have failed their forecasts,
        whether anybody waited for them or not."""
        for times in self._backs.values():
            times.passed(committed, now)

    def revealed(self, found: Sequence[Place]) -> None:
        """Learn from new guesses, weighted by path probability: a draft model is less sure at unlikely places."""
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
        """The two kinds of expansions: how frequent each is, and the chances of its guesses."""
        return [(1 - self._sure, self._kinds[False]), (self._sure, self._kinds[True])]

    def due(self, now: float, committed: float, surprised: bool, within: float) -> list[tuple[float, str]]:
        """Backs whose next message may come in time, with the seconds until then, soonest first."""
        times = [(times.due(now, committed, surprised), name) for name, times in self._backs.items()]
        return sorted((due, name) for due, name in times if due is not None and due < within)

    def every(self, due: Sequence[tuple[float, str]]) -> float:
        """Seconds from one expansion to the next, of all these backs together; 0 without backs."""
        return 1 / sum(1 / self.pace(name) for _, name in due) if due else 0.0

    def sure(self, due: Sequence[tuple[float, str]]) -> float:
        """The share of forecasts that come true, for the back that is due first."""
        return self._backs[due[0][1]].kept

    def wait(self, back: str) -> None:
        """The lead waits for a message of this back."""
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
        """The messages of the next `within` seconds, if the likeliest leaves are expanded one after the other.

        `due`: from the method `due`. `leaves`: path probabilities of the nodes without children. `offer`: of the draft
        model beside the target, if it drafts meanwhile. `first`: chances that the first expansion reveals, if not the
        usual ones. `ranks`: how many guesses of an expansion are of use; 1 for chains.
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
