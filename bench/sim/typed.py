"""Figures as people type them on a command line, for argparse. Cost curves: `lead.simulation.curves`."""

from __future__ import annotations

import argparse
from collections.abc import Callable


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
