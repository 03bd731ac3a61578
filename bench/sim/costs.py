"""What forward passes, the lead's work and messages take in a real run, from its `--trace` files.

A simulator is as right as its costs. Models that are measured one at a time, at rest, are faster than in a run where
two programs share a memory. And what a step takes beside its forward pass shows only in a run.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from bench.show.trace import Event, named

BUSY = ("forward", "prefill", "wait", "draft", "rank", "read")
"""Parts of a lead's step with costs of their own."""
SOONEST = 0.1
"""Share of the messages to a back that come between two forward passes: it looks for messages only then."""


@dataclass(frozen=True)
class Seen:
    """Of one program. `slower`: time of its forward passes over that of its cost curve; None without passes. `ranking`:
    seconds to rank the guesses of a row."""

    slower: float | None
    ranking: float


@dataclass(frozen=True)
class Observed:
    """What was seen of a lead and its back, in seconds. `overhead`: of a step of the lead, beside forward passes and
    waits. `round_trip`: of a message to the back and one to the lead, together."""

    target: float
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


def slower(events: Sequence[Event], name: str, cost: Callable[[int], float]) -> float | None:
    ratios = [seconds(e) / cost(e["args"]["rows"]) for e in named(events, name)]
    return median(ratios) if ratios else None


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
