"""Which model a back drafts for. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

MOVE_AFTER = 3.0
"""Seconds without a request after which a model gives its backs to one that has requests."""


@dataclass(frozen=True, slots=True)
class Place:
    """A loaded model, as a back sees it. `backs`: how many draft for it. Times are seconds by any steady clock.

    known: it is known to have the back's vocabulary; else that has to be tried.
    """

    name: str
    known: bool
    busy: bool
    backs: int
    used: float


def choose(places: Iterable[Place]) -> str | None:
    """The model that a new back goes to: one that has requests, with few backs, used a moment ago."""
    found = list(places)
    found = [place for place in found if place.known] or found
    best = min(found, key=lambda place: (not place.busy, place.backs, -place.used), default=None)
    return best.name if best else None


def better(now_at: Place, places: Iterable[Place], now: float) -> str | None:
    """The model that a back should leave its own for; None if it should stay."""
    others = [place for place in places if place.known and place.busy and place.name != now_at.name]
    if now_at.busy:
        others = [place for place in others if place.backs + 1 < now_at.backs]
    elif now - now_at.used < MOVE_AFTER:
        return None
    return choose(others)
