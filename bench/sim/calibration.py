"""Whether the chances that a draft claims are true, before and after the lead's correction. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from lead.plan.calibration import Calibration
from lead.simulation.replay import Recorded

EDGES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.97, 1.0)


@dataclass(frozen=True)
class Judged:
    """A guess. `claimed`: the back's chance. `corrected`: the lead's. `right`: it was the target's pick."""

    claimed: float
    corrected: float
    right: bool


@dataclass(frozen=True)
class Bin:
    """Guesses with chances from `low` up to `high`: how many, the chance on average, and how often one was right."""

    low: float
    high: float
    count: int
    said: float
    right: float


def judged(answers: Iterable[Recorded]) -> tuple[list[Judged], list[Judged]]:
    """First guesses, and all others. The lead learns along the way, as it does while it decodes."""
    calibration = Calibration()
    first: list[Judged] = []
    others: list[Judged] = []
    for answer in answers:
        for guesses, picked in answer.picked():
            for rank, (_, claim) in enumerate(guesses):
                (others if rank else first).append(Judged(claim, calibration.chance(claim), rank == picked))
            for rank, (_, claim) in enumerate(guesses):
                calibration.outcome(claim, rank == picked)
    return first, others


def bins(pairs: Sequence[tuple[float, bool]]) -> list[Bin]:
    """Bins of pairs (chance, right). Empty bins are left out."""
    made: list[Bin] = []
    for low, high in pairwise(EDGES):
        inside = [(chance, right) for chance, right in pairs if low <= chance < high or chance == high == 1.0]
        if inside:
            count = len(inside)
            made.append(
                Bin(low, high, count, sum(c for c, _ in inside) / count, sum(right for _, right in inside) / count)
            )
    return made


def error(found: Sequence[Bin]) -> float:
    """By how much the chances are off, on average over all guesses (expected calibration error)."""
    return sum(b.count * abs(b.said - b.right) for b in found) / max(1, sum(b.count for b in found))


def markdown(answers: Sequence[Recorded]) -> str:
    """A table for first guesses and one for the others."""
    parts: list[str] = []
    for name, found in zip(("First guesses", "Other guesses"), judged(answers), strict=True):
        claimed = bins([(it.claimed, it.right) for it in found])
        corrected = bins([(it.corrected, it.right) for it in found])
        parts += [
            f"{name}: {len(found)}, {sum(it.right for it in found) / max(1, len(found)):.1%} right, off by "
            f"{error(claimed):.3f} on average as the back claims and {error(corrected):.3f} as the lead corrects",
            "",
            "| chance | claimed: guesses | predicted | observed | corrected: guesses | predicted | observed |",
            "|---|---:|---:|---:|---:|---:|---:|",
            *_rows(claimed, corrected),
            "",
        ]
    return "\n".join(parts)


def _rows(claimed: Sequence[Bin], corrected: Sequence[Bin]) -> list[str]:
    left, right = ({(b.low, b.high): b for b in found} for found in (claimed, corrected))

    def cells(b: Bin | None) -> str:
        return f"{b.count} | {b.said:.3f} | {b.right:.3f}" if b else " | | "

    return [
        f"| {low:g} to {high:g} | {cells(left.get((low, high)))} | {cells(right.get((low, high)))} |"
        for low, high in pairwise(EDGES)
        if (low, high) in left or (low, high) in right
    ]
