"""Which models are loaded, which requests wait for one, and which model goes to make room. Pure.

Every change is told with its time. `step` then says what is to be done, and decides about tickets.

    unloaded -> loading -> loaded -> stopping -> unloaded

A request holds a *ticket*. Tickets are served in the order in which they came, so that no model waits for ever: a model
that must make room takes no more requests, and goes when its last answer has ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

Status = Literal["unloaded", "loading", "loaded", "stopping"]

HOLD_OFF = 10.0
"""Seconds in which a model is not tried again, after its own program has said why it cannot be loaded."""


@dataclass(eq=False, slots=True)
class Ticket:
    """A request for a model. `reason`: why it was refused."""

    model: str
    state: Literal["waiting", "admitted", "refused", "left"] = "waiting"
    reason: str = ""


@dataclass(eq=False, slots=True)
class Entry:
    """One model, as the registry knows it. Times are seconds by any steady clock."""

    name: str
    ttl: float = 0.0
    status: Status = "unloaded"
    since: float = 0.0
    """When the status began."""
    used: float = 0.0
    """When a request came or went last."""
    active: int = 0
    """Requests that it answers now."""
    wanted: bool = False
    """It is to be loaded, even if no request waits for it."""
    unwanted: bool = False
    """It is to be put away as soon as its answers have ended."""
    closing: bool = False
    """It takes no more requests, because another model needs its place."""
    reason: str = ""
    """Why the last load failed, or why the process ended; empty after a load."""
    held_until: float = 0.0
    """No new load is tried before."""


@dataclass(frozen=True, slots=True)
class Decided:
    """What `step` has decided: models to load and to stop, the latter with why, and tickets that wait no longer."""

    start: list[str] = field(default_factory=list)
    stop: dict[str, str] = field(default_factory=dict)
    tickets: list[Ticket] = field(default_factory=list)


class Registry:
    def __init__(self, ttls: Mapping[str, float], max_loaded: int = 1, load_seconds: float = 600.0) -> None:
        """`ttls`: seconds without a request after which each model is put away; 0: never."""
        self.entries = {name: Entry(name, ttl) for name, ttl in ttls.items()}
        self._max_loaded = max_loaded
        self._load_seconds = load_seconds
        self._waiting: list[Ticket] = []
        self._refused: list[Ticket] = []

    def ask(self, name: str, now: float) -> Ticket:
        """A request for a model has come."""
        ticket, entry = Ticket(name), self.entries[name]
        if entry.status in ("unloaded", "stopping") and now < entry.held_until:
            self._refuse(ticket, entry.reason)
        else:
            self._waiting.append(ticket)
        return ticket

    def leave(self, ticket: Ticket, now: float) -> None:
        """A request is answered, or its client is gone."""
        if ticket.state == "waiting":
            self._waiting.remove(ticket)
        elif ticket.state == "admitted":
            entry = self.entries[ticket.model]
            entry.active -= 1
            entry.used = now
        ticket.state = "left"

    def want(self, name: str) -> None:
        """Load a model that no request waits for."""
        entry = self.entries[name]
        entry.wanted = entry.status != "loaded"
        entry.unwanted = False
        entry.held_until = 0.0

    def put_away(self, name: str) -> None:
        """Put a model away when its answers have ended; a load is given up at once."""
        entry = self.entries[name]
        entry.wanted = False
        entry.unwanted = entry.status in ("loading", "loaded")

    def loaded(self, name: str, now: float) -> None:
        """The process of a model can answer."""
        entry = self.entries[name]
        if entry.status == "loading":
            self._become(entry, "loaded", now)
            entry.used = now
            entry.wanted, entry.reason, entry.held_until = False, "", 0.0

    def ended(self, name: str, now: float, reason: str = "", hold_off: bool = False) -> None:
        """The process of a model is gone. `reason`: why, if nobody asked for that.

        hold_off: trying again would give the same reason.
        """
        entry = self.entries[name]
        if reason and entry.status in ("loading", "loaded"):
            entry.reason = reason
            entry.wanted = False
            if entry.status == "loading":
                entry.held_until = now + HOLD_OFF if hold_off else 0.0
                self._refuse_all(name, reason)
        self._become(entry, "unloaded", now)
        entry.unwanted = False

    def step(self, now: float) -> Decided:
        """What is to be done now."""
        decided = Decided()
        self._give_up(now, decided)
        self._admit(now, decided)
        self._expire(now, decided)
        self._make_room(now, decided)
        self._admit(now, decided)  # to models that need not make room any more
        for entry in self._with("loaded"):
            if entry.unwanted and not entry.active:
                self._stop(entry, "as asked", now, decided)
        decided.tickets.extend(self._refused)
        self._refused.clear()
        return decided

    def next_at(self) -> float:
        """When `step` has something to do again, if nothing happens before."""
        times = [entry.since + self._load_seconds for entry in self._with("loading")]
        times += [entry.used + entry.ttl for entry in self._with("loaded") if entry.ttl and not entry.active]
        return min(times, default=float("inf"))

    def waits(self, name: str) -> bool:
        """Whether a request waits for this model."""
        return any(ticket.model == name for ticket in self._waiting)

    def _give_up(self, now: float, decided: Decided) -> None:
        """Loads that take too long."""
        for entry in self._with("loading"):
            if now >= entry.since + self._load_seconds:
                entry.reason = f"it was not loaded within {self._load_seconds:.0f} seconds (healthCheckTimeout)"
                entry.wanted = False
                entry.held_until = now + HOLD_OFF
                self._refuse_all(entry.name, entry.reason)
                self._stop(entry, entry.reason, now, decided)
            elif entry.unwanted:
                self._refuse_all(entry.name, "it was put away while it was being loaded")
                self._stop(entry, "as asked", now, decided)

    def _admit(self, now: float, decided: Decided) -> None:
        for ticket in list(self._waiting):
            entry = self.entries[ticket.model]
            if entry.status == "loaded" and not entry.closing and not entry.unwanted:
                self._waiting.remove(ticket)
                ticket.state = "admitted"
                entry.active += 1
                entry.used = now
                decided.tickets.append(ticket)

    def _expire(self, now: float, decided: Decided) -> None:
        for entry in self._with("loaded"):
            if entry.ttl and not entry.active and now >= entry.used + entry.ttl:
                self._stop(entry, f"no request for {entry.ttl:g} s", now, decided)

    def _make_room(self, now: float, decided: Decided) -> None:
        """Start what is asked for, and choose who goes for it."""
        for entry in self.entries.values():
            entry.closing = False
        room = self._max_loaded - len(list(self._with("loading", "loaded", "stopping")))
        freed = len(list(self._with("stopping")))
        for entry in self._asked_for():
            if entry.status == "stopping":
                freed -= 1  # its own place is the one that it gets
                continue
            if room > 0:
                room -= 1
                self._become(entry, "loading", now)
                decided.start.append(entry.name)
                continue
            if freed > 0:
                freed -= 1
                continue
            victim = self._victim()
            if victim is None:
                continue
            if victim.status == "loaded" and victim.active:
                victim.closing = True
            else:
                self._stop(victim, f"{entry.name} needs its place", now, decided)

    def _asked_for(self) -> list[Entry]:
        """Models that are not loaded and should be, the one that waits longest first."""
        names = dict.fromkeys(ticket.model for ticket in self._waiting)
        names.update(dict.fromkeys(entry.name for entry in self.entries.values() if entry.wanted))
        return [entry for name in names if (entry := self.entries[name]).status in ("unloaded", "stopping")]

    def _victim(self) -> Entry | None:
        """Who makes room: an idle model, else a load that nobody waits for any more, else one that is busy.

        Of several the one that was not used for the longest time.
        """
        loaded = [entry for entry in self._with("loaded") if not entry.closing]
        idle = [entry for entry in loaded if not entry.active]
        left = [entry for entry in self._with("loading") if not entry.wanted and not self.waits(entry.name)]
        return next((min(some, key=lambda entry: entry.used) for some in (idle, left, loaded) if some), None)

    def _stop(self, entry: Entry, why: str, now: float, decided: Decided) -> None:
        self._become(entry, "stopping", now)
        entry.closing = entry.unwanted = False
        decided.stop[entry.name] = why

    def _become(self, entry: Entry, status: Status, now: float) -> None:
        entry.status, entry.since = status, now
        if status == "loading":
            entry.used = now

    def _refuse(self, ticket: Ticket, reason: str) -> None:
        ticket.state, ticket.reason = "refused", reason
        self._refused.append(ticket)

    def _refuse_all(self, name: str, reason: str) -> None:
        for ticket in [ticket for ticket in self._waiting if ticket.model == name]:
            self._waiting.remove(ticket)
            self._refuse(ticket, reason)

    def _with(self, *statuses: Status) -> Iterator[Entry]:
        return (entry for entry in list(self.entries.values()) if entry.status in statuses)
