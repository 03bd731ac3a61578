"""Cost curves as people type and read them: `1:65,2:72` for rows and the milliseconds of a forward pass."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from itertools import pairwise

from lead.simulation import world
from lead.simulation.world import Cost

Points = Sequence[tuple[int, float]]
"""Rows, and milliseconds of a forward pass over them."""

MOST_MS = 3_600_000
"""An hour. No forward pass takes so long."""

EXAMPLE = "1:65,2:72,4:91,8:132,16:181"


def points(text: str) -> Points:
    """ROWS:MS,ROWS:MS,... or a lone MS for one row."""
    try:
        if ":" not in text:
            found = [(1, float(text))]
        else:
            found = [(int(rows), float(ms)) for rows, ms in (part.split(":") for part in text.split(","))]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither milliseconds nor a curve such as {EXAMPLE}") from None
    rows = [row for row, _ in found]
    if rows[0] != 1 or any(a >= b for a, b in pairwise(rows)):
        raise argparse.ArgumentTypeError(f"{text!r}: a curve begins with 1 row, and the rows rise, as in {EXAMPLE}")
    if not all(0 < ms <= MOST_MS for _, ms in found):
        raise argparse.ArgumentTypeError(f"{text!r}: milliseconds must be above 0, and at most {MOST_MS:,}")
    return found


def target_points(text: str) -> Points:
    """A curve, because a speed-up depends on what several rows cost."""
    found = points(text)
    if len(found) < 2:
        raise argparse.ArgumentTypeError(
            f"{text!r} says what one row costs and not what several do: type a curve such as {EXAMPLE}"
        )
    return found


def target_cost(found: Points) -> Cost:
    return world.curve(*((rows, ms / 1000) for rows, ms in found))


def draft_cost(found: Points) -> Cost:
    """A lone figure is completed by what the simulator takes for further rows of a draft model."""
    return target_cost(found) if len(found) > 1 else world.drafting(found[0][1] / 1000)


def typed(seconds: Mapping[int, float]) -> str:
    """A measured curve in the form that `points` reads."""
    return ",".join(f"{rows}:{1000 * taken:.4g}" for rows, taken in sorted(seconds.items()))
