"""Models, their processes and their clients in simulated time, around the registry."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count

from lead.models.registry import Registry, Ticket


@dataclass(eq=False)
class Asked:
    """A client's request. `served`: when the model could answer; `ended`: when the client had its answer."""

    model: str
    came: float
    takes: float
    patience: float = float("inf")
    served: float | None = None
    ended: float | None = None
    refused: str = ""
    ticket: Ticket | None = None


@dataclass
class World:
    """`loads`: seconds that each model takes to load. `fails`: how often its next loads fail."""

    registry: Registry
    loads: Mapping[str, float]
    stops: float = 0.5
    fails: dict[str, int] = field(default_factory=dict)
    now: float = 0.0
    log: list[tuple[float, str, str]] = field(default_factory=list)
    """When, 'start' or 'stop', and which model."""
    asked: list[Asked] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._numbers = count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._processes: dict[str, int] = {}
        """By model, the number of its process, which is not to be mixed up with an earlier one."""

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), what))

    def ask(self, model: str, at: float, takes: float = 1.0, patience: float = float("inf")) -> Asked:
        """A request that comes at this time."""
        asked = Asked(model, at, takes, patience)
        self.asked.append(asked)
        self.at(at, lambda: self._come(asked))
        return asked

    def run(self, until: float = float("inf")) -> None:
        """Let all happen until this time, or until nothing happens any more."""
        while True:
            wake = self.registry.next_at()
            event = self._events[0][0] if self._events else float("inf")
            at = min(wake, event)
            if at > until or at == float("inf"):
                break
            self.now = max(self.now, at)
            if event <= wake:
                heapq.heappop(self._events)[2]()
            self.step()
        self.now = until if until < float("inf") else self.now

    def step(self) -> None:
        decided = self.registry.step(self.now)
        for name in decided.stop:
            self.log.append((self.now, "stop", name))
            self._processes[name] += 1
            self.at(self.now + self.stops, lambda name=name: self.registry.ended(name, self.now))  # type: ignore[misc]
        for name in decided.start:
            self.log.append((self.now, "start", name))
            self._start(name)
        for ticket in decided.tickets:
            asked = next(one for one in self.asked if one.ticket is ticket)
            if ticket.state == "refused":
                asked.refused, asked.ended = ticket.reason, self.now
            else:
                assert self.registry.entries[ticket.model].status == "loaded"
                asked.served = self.now
                self.at(self.now + asked.takes, lambda asked=asked: self._leave(asked))  # type: ignore[misc]
        up = [entry for entry in self.registry.entries.values() if entry.status != "unloaded"]
        assert len(up) <= self.most, "more models in memory than are allowed"

    most = 1

    def crash(self, name: str, reason: str = "its process was ended by SIGKILL") -> None:
        """The process of a model is gone, whatever it did."""
        self._processes[name] += 1
        self.registry.ended(name, self.now, reason)
        self.step()

    def _come(self, asked: Asked) -> None:
        asked.ticket = self.registry.ask(asked.model, self.now)
        if asked.patience < float("inf"):
            self.at(self.now + asked.patience, lambda: self._leave(asked) if asked.served is None else None)

    def _leave(self, asked: Asked) -> None:
        assert asked.ticket is not None
        if asked.ended is None:
            asked.ended = self.now
            self.registry.leave(asked.ticket, self.now)

    def _start(self, name: str) -> None:
        number = self._processes[name] = self._processes.get(name, 0) + 1

        def over() -> None:
            if self._processes[name] != number:
                return
            if self.fails.get(name, 0):
                self.fails[name] -= 1
                self.registry.ended(name, self.now, "it does not fit", hold_off=True)
            else:
                self.registry.loaded(name, self.now)

        self.at(self.now + self.loads[name], over)


def world(most: int = 1, load_seconds: float = 600.0, **ttls: float) -> World:
    """Models with these times to live. Each takes 10 seconds to load."""
    made = World(Registry(ttls, most, load_seconds), dict.fromkeys(ttls, 10.0))
    made.most = most
    return made
