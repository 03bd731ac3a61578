"""Which guesses to verify in the next forward pass, and whether to wait for better ones.

Nodes are taken in order of falling path probability, a set that is always closed under parents, and so many that

    expected new tokens(k)  -  rate x cost(k)

is greatest, where cost(k) is the measured cost curve and rate the tokens per second that are being achieved: time lost
now is paid at the long-run rate. (Maximising the tokens per second of this step alone is not the same, and worse.)

Waiting for guesses that are about to arrive is the same comparison with the wait in place of the cost. When the next
ones are due is forecast from when they used to come: how long after a commit the first does, and how long after one
the next. A forecast that often fails is trusted less, so a back that hangs costs nothing but a few short waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from duo.cost import CostCurve
from duo.tree import GuessTree, Node

MEMORY = 40
"""Steps over which the rate is averaged."""
LEAVES = 2
"""Nodes whose children the next message is taken to bring."""
PATIENCE = 1.5
"""A wait must promise so many times what it costs: the forecast knows less than it says."""
GIVE_UP = 1.6
"""A message that has taken so many times its usual time is not waited for."""
SMOOTHING = 0.1
MOST_BACKS = 64


@dataclass(frozen=True, slots=True)
class Limits:
    """llama-server's meaning: at most `draft_max` guesses are verified, none of less probability than `p_min`, and if
    fewer than `draft_min` are left, none at all."""

    draft_max: int = 16
    draft_min: int = 0
    p_min: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """`wait` > 0: plan again when guesses have come, at the latest after so many seconds. Else: verify `nodes` now."""

    nodes: Sequence[Node]
    wait: float = 0.0


class _Forecast:
    """When one back's next message is due. Times in seconds."""

    def __init__(self) -> None:
        self.first: float | None = None
        self.gap: float | None = None
        self.kept = 1.0
        """Share of forecasts that came true."""
        self._heard = float("-inf")
        self._waited_for = False

    def heard(self, now: float, committed: float) -> None:
        if self._heard > committed:
            self.gap = _smooth(self.gap, now - self._heard)
        else:
            self.first = _smooth(self.first, now - committed)
        self._heard = now
        if self._waited_for:
            self.kept += SMOOTHING * (1 - self.kept)
            self._waited_for = False

    def due(self, now: float, committed: float) -> float | None:
        """Seconds until the next message may be there; None if nobody knows, or it is overdue."""
        since, usual = (now - self._heard, self.gap) if self._heard > committed else (now - committed, self.first)
        if usual is None:
            return None
        if since >= GIVE_UP * usual:
            if self._waited_for:
                self.kept -= SMOOTHING * self.kept
                self._waited_for = False
            return None
        return usual - since if since < usual else GIVE_UP * usual - since

    def wait(self) -> None:
        self._waited_for = True


class Planner:
    """Plans the steps of a lead. Clock-free: every method is told the time, in seconds."""

    def __init__(self, cost: CostCurve, limits: Limits) -> None:
        self.cost = cost
        self._limits = limits
        self._tokens = 0.0
        self._seconds = 0.0
        self._committed: float | None = None
        self._forecasts: dict[str, _Forecast] = {}
        self._first_guess = 0.6
        """How likely the best guess of an expansion is, on average."""

    @property
    def rate(self) -> float:
        """Tokens per second lately; those of the target alone while nothing is known."""
        return self._tokens / self._seconds if self._seconds else 1 / self.cost(1)

    def begun(self, now: float) -> None:
        """A session's first step is about to be planned."""
        self._committed = now

    def heard(self, now: float, back: str, best: float) -> None:
        """Guesses of a back arrived at `now`, the likeliest of them this likely given its prefix."""
        self._first_guess += 0.05 * (best - self._first_guess)
        if back not in self._forecasts and len(self._forecasts) >= MOST_BACKS:
            del self._forecasts[next(iter(self._forecasts))]
        self._forecasts.setdefault(back, _Forecast()).heard(now, self._committed or now)

    def finished(self, now: float, rows: int, seconds: float, tokens: int) -> None:
        """A forward pass over `rows` rows took `seconds` and led to so many new tokens, committed at `now`."""
        self.cost.observe(rows, seconds)
        fade = 1 - 1 / MEMORY
        if self._committed is not None:
            self._tokens = self._tokens * fade + tokens
            self._seconds = self._seconds * fade + max(now - self._committed, 1e-9)
        self._committed = now

    def plan(self, tree: GuessTree, now: float, length_below: int | None = None) -> Plan:
        """What to do next. Nodes of `length_below` tokens or more are of no use."""
        limits, rate, cost = self._limits, self.rate, self.cost
        ranked = tree.best(limits.draft_max, limits.p_min, length_below)
        chosen, best, expected = 0, 1 - rate * cost(1), 1.0
        for count, (_, path) in enumerate(ranked, 1):
            expected += path
            value = expected - rate * cost(1 + count)
            if value > best and count >= limits.draft_min:
                chosen, best = count, value
        wait = self._wait(ranked, chosen, now, rate) if chosen < limits.draft_max else 0.0
        return Plan([node for node, _ in ranked[:chosen]], wait)

    def _wait(self, ranked: Sequence[tuple[Node, float]], chosen: int, now: float, rate: float) -> float:
        """How long to wait for the next guesses, 0 if they are not worth it.

        Never longer after a commit than a forward pass takes, whatever is forecast: what a back says must not be able
        to hold up an answer.
        """
        leaves = [path for node, path in ranked if not node.children] if ranked else [1.0]
        gain = sum(leaves[:LEAVES]) * self._first_guess - rate * (self.cost(2 + chosen) - self.cost(1 + chosen))
        soonest: tuple[float, _Forecast] | None = None
        committed = self._committed if self._committed is not None else now
        left = committed + self.cost(1) - now
        for forecast in self._forecasts.values():
            due = forecast.due(now, committed)
            if due is not None and due < left and gain * forecast.kept > PATIENCE * rate * due:
                soonest = min(soonest or (due, forecast), (due, forecast), key=lambda pair: pair[0])
        if soonest is None:
            return 0.0
        soonest[1].wait()
        return min(soonest[0] * 1.05 + 1e-6, left)


def chain(tree: GuessTree, nodes: Sequence[Node]) -> list[Node]:
    """Of the nodes of a plan one line only, the likeliest token at each place."""
    line: list[Node] = []
    for node in nodes:
        if node.parent is (line[-1] if line else tree.root):
            line.append(node)
    return line


def _smooth(old: float | None, new: float) -> float:
    return new if old is None else old + SMOOTHING * (new - old)


class Schedule(Protocol):
    """What a decode loop asks before each step, and tells after it: `Planner`, or `Everything` for comparison."""

    def begun(self, now: float) -> None: ...

    def heard(self, now: float, back: str, best: float) -> None: ...

    def finished(self, now: float, rows: int, seconds: float, tokens: int) -> None: ...

    def plan(self, tree: GuessTree, now: float, length_below: int | None = None) -> Plan: ...


class Everything:
    """Verifies all that is there and never waits, as the plain asynchronous chain (llama_duo's schedule) does."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def plan(self, tree: GuessTree, now: float, length_below: int | None = None) -> Plan:
        """As `Planner.plan`, but for what it costs."""
        ranked = tree.best(self._limits.draft_max, self._limits.p_min, length_below)
        return Plan([node for node, _ in ranked] if len(ranked) >= self._limits.draft_min else [])

    def begun(self, now: float) -> None:
        """Nothing is learned from it."""

    def heard(self, now: float, back: str, best: float) -> None:
        """Nothing is learned from it."""

    def finished(self, now: float, rows: int, seconds: float, tokens: int) -> None:
        """Nothing is learned from it."""
