"""Figures as people type them on a command line: cost curves and lists, for argparse."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from itertools import pairwise

from bench.sim import world
from bench.sim.world import Cost

Points = Sequence[tuple[int, float]]
"""Rows, and milliseconds of a forward pass over them."""

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
    if not all(0 < ms < float("inf") for _, ms in found):
        raise argparse.ArgumentTypeError(f"{text!r}: milliseconds must be above 0")
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


def pair(text: str) -> tuple[float, float]:
    """A:B, both above 0."""
    try:
        a, b = (float(part) for part in text.split(":"))
    except ValueError:
        a = b = -1.0
    if not (0 < a < float("inf") and 0 < b < float("inf")):
        raise argparse.ArgumentTypeError(f"{text!r} is not A:B, two numbers above 0")
    return a, b


def share(text: str) -> float:
    """Above 0 and below 1."""
    value = _float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number between 0 and 1")
    return value


def number(text: str) -> float:
    """At least 0."""
    value = _float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return value


def _float(text: str) -> float:
    """-1 for what is no number."""
    try:
        return float(text)
    except ValueError:
        return -1.0


def listed(item: Callable[[str], float]) -> Callable[[str], list[float]]:
    """Several of them, with commas."""

    def read(text: str) -> list[float]:
        return [item(part) for part in text.split(",")]

    return read
