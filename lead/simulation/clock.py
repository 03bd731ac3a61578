"""Simulated time, and links that take some."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from lead.simulation.world import Link


@dataclass
class Clock:
    """Events in the order of their times."""

    now: float = 0.0
    _heap: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _order: Iterator[int] = field(default_factory=itertools.count)

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        self.at(self.now + seconds, event)

    def at(self, time: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (time, next(self._order), event))

    def run(self, until: Callable[[], bool]) -> None:
        while self._heap and not until():
            self.now, _, event = heapq.heappop(self._heap)
            event()


class Wire:
    """One direction of a link. What is sent first arrives first."""

    def __init__(self, clock: Clock, link: Link, rng: random.Random) -> None:
        self._clock, self._link, self._rng = clock, link, rng
        self._last = 0.0

    def send(self, event: Callable[[], None]) -> None:
        self._last = max(self._last, self._clock.now + self._link.delay(self._rng))
        self._clock.at(self._last, event)
