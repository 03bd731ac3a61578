"""What forward passes, the lead's own work and messages take in a real run, from what `--trace` wrote of it.

A simulator is as right as its costs. Those of models that are measured one at a time, at rest, are not those of a run
in which two programs share a memory, and what a step takes beside its forward pass shows in a run only.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from bench.show.trace import Event, named

BUSY = ("forward", "prefill", "wait", "draft", "rank", "read")
"""What of a lead's step is accounted for by itself."""
SOONEST = 0.1
"""Share of the messages to a back that come while it is between two forward passes: it looks for them only then."""


@dataclass(frozen=True)
class Seen:
    """Of one program. `slower`: its forward passes take so many times what a cost curve says; None if there were none.
    `ranking`: seconds to rank the guesses of a row."""

    slower: float | None
    ranking: float


@dataclass(frozen=True)
class Observed:
    """What was seen of a lead and its back. `overhead`: seconds that a step of the lead takes beside forward passes and
    waits. `round_trip`: seconds of a message to the back and of one to the lead, together."""

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
    """The time from one commit to the next that is neither forward pass nor wait; the middle step counts."""
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
