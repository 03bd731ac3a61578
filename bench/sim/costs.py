"""What forward passes, the lead's work and messages take in a real run, from its `--trace` files.

A simulator is as right as its costs. Models that are measured one at a time, at rest, are faster than in a run where
two programs share a memory. And what a step takes beside its forward pass shows only in a run.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import numpy as np

from bench.show.trace import Event, named

BUSY = ("forward", "prefill", "wait", "draft", "rank", "read")
"""Parts of a lead's step with costs of their own."""
MIN_SEEN = 5
"""Forward passes of a width that say how much slower this width is at work. Rarer widths follow their neighbours."""
SOONEST = 0.1
"""Share of the messages to a back that come between two forward passes: it looks for messages only then."""


@dataclass(frozen=True)
class Slower:
    """How many times as long forward passes take at work as at rest. `points`: rows, rising, with the factor of each.

    Widths differ. One row waits for memory, and eight rows keep the core busy. So a program that shares memory and
    cache slows one more than the other.
    """

    points: Sequence[tuple[int, float]]

    def __call__(self, rows: int) -> float:
        """Linear in between, constant outside."""
        widths, factors = zip(*self.points, strict=True)
        return float(np.interp(rows, widths, factors))


@dataclass(frozen=True)
class Seen:
    """Of one program. `slower`: of its forward passes; None without passes. `ranking`: seconds to rank the guesses of
    a row."""

    slower: Slower | None
    ranking: float


@dataclass(frozen=True)
class Observed:
    """What was seen of a lead and its back, in seconds. `overhead`: of a step of the lead, beside forward passes and
    waits. `round_trip`: of a message to the back and one to the lead, together."""

    target: Slower
    own: Seen
    draft: Seen
    overhead: float
    round_trip: float


def observed(
    lead: Sequence[Event], back: Sequence[Event], target: Callable[[int], float], draft: Callable[[int], float]
) -> Observed:
    """From the events of two traces (of `lead` alone, if `back` is empty). `target`, `draft`: seconds of a forward pass
    by rows, measured at rest."""
    seen = slower(lead, "forward", target)
    if seen is None:
        raise ValueError("the lead has not answered anything in this trace")
    return Observed(seen, drafting(lead, draft), drafting(back, draft), overhead(lead), round_trip(lead, back))


def seconds(event: Event) -> float:
    return float(event["dur"]) / 1e6


def slower(events: Sequence[Event], name: str, cost: Callable[[int], float]) -> Slower | None:
    """By the spans of this name. `cost`: seconds at rest, by rows. None if there are no such spans."""
    ratios: defaultdict[int, list[float]] = defaultdict(list)
    for event in named(events, name):
        rows = int(event["args"]["rows"])
        ratios[rows].append(seconds(event) / cost(rows))
    if not ratios:
        return None
    often = [(rows, median(seen)) for rows, seen in sorted(ratios.items()) if len(seen) >= MIN_SEEN]
    return Slower(often or [(1, median(ratio for seen in ratios.values() for ratio in seen))])


def drafting(events: Sequence[Event], cost: Callable[[int], float]) -> Seen:
    rows = [int(e["args"]["rows"]) for e in named(events, "draft")]
    ranks = [seconds(e) / n for e, n in zip(named(events, "rank"), rows, strict=False)]
    return Seen(slower(events, "draft", cost), median(ranks) if ranks else 0.0)


def overhead(lead: Sequence[Event]) -> float:
    """The time between commits that is neither forward pass nor wait, in the median step."""
    commits = moments(lead, "commit")
    took = [0.0] * (len(commits) + 1)
    for event in named(lead, *BUSY):
        took[bisect_right(commits, float(event["ts"]))] += seconds(event)
    steps = [(b - a) / 1e6 - took[i] for i, (a, b) in enumerate(pairwise(commits), 1)]
    return max(0.0, median(steps)) if steps else 0.0


def moments(events: Sequence[Event], name: str) -> list[float]:
    """Microseconds."""
    return sorted(float(e["ts"]) for e in events if e["name"] == name and e["ph"] != "X")


def round_trip(lead: Sequence[Event], back: Sequence[Event]) -> float:
    told = {e["args"]["length"]: float(e["ts"]) for e in lead if e["name"] == "commit"}
    heard = [(float(e["ts"]) - told[e["args"]["length"]]) / 1e6 for e in back
             if e["name"] == "commit" and e["args"].get("length") in told]  # fmt: skip
    down = sorted(delay for delay in heard if delay > 0)
    sent, came = moments(back, "send"), moments(lead, "guesses")
    up = [(came[at] - moment) / 1e6 for moment in sent if (at := bisect_left(came, moment)) < len(came)]
    return (down[int(SOONEST * len(down))] if down else 0.0) + (median(up) if up else 0.0)
