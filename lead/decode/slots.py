"""Which slot of the engine an answer gets, and what of its prompt the cache holds already.

A slot keeps its keys and values when its answer is over. The next question goes where most of its prompt is still in
the cache, unless that would throw away more than it saves; then it takes a copy of the common prefix to a slot that has
waited longest. So a conversation finds its slot again, and what many conversations begin with is computed once.
"""

from __future__ import annotations

from collections.abc import Iterator

from duo.engines import Engine
from duo.prefix import common_length


class Seat:
    """A slot. `taken`: whether an answer has it. `held`: tokens that begin with what the slot's cache holds, and may go
    on after that."""

    __slots__ = ("held", "id", "taken", "used")

    def __init__(self, slot: int) -> None:
        self.id = slot
        self.held: list[int] = []
        self.taken = False
        self.used = 0
        """When it was given away last, as a running number."""


class Seats:
    """All slots of an engine. The decode loop's thread uses it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._seats = [Seat(slot) for slot in range(engine.slots)]
        self._given = 0

    def __iter__(self) -> Iterator[Seat]:
        return iter(self._seats)

    @property
    def free(self) -> int:
        """How many are free."""
        return sum(not seat.taken for seat in self._seats)

    def common(self, seat: Seat, prompt: list[int]) -> int:
        """How many tokens of the prompt can be had from the seat's cache."""
        return self._engine.restorable(seat.id, common_length(seat.held, prompt))

    def known(self, prompt: list[int]) -> int:
        """How many tokens of the prompt some seat's cache begins with."""
        return max(self.common(seat, prompt) for seat in self._seats)

    def take(self, prompt: list[int]) -> Seat | None:
        """A seat for a new answer; None while all are taken."""
        free = [seat for seat in self._seats if not seat.taken]
        if not free:
            return None
        seat = max(free, key=lambda seat: (self.common(seat, prompt), -seat.used))
        if 2 * self.common(seat, prompt) < self._engine.length(seat.id):
            seat = self._longest_idle(free)
        self._given += 1
        seat.taken, seat.used = True, self._given
        return seat

    def _longest_idle(self, free: list[Seat]) -> Seat:
        """The free seat that has waited longest. Where only neighbours share a pass: of the half that has, one beside a
        seat that is taken. What was used lately has the cache of a conversation that may go on."""
        free.sort(key=lambda seat: seat.used)
        if self._engine.neighbours:
            beside = {seat.id + step for seat in self._seats if seat.taken for step in (-1, 1)}
            return min(free[: (len(free) + 1) // 2], key=lambda seat: seat.id not in beside)
        return free[0]

    def settle(self, seat: Seat, prompt: list[int], most: int) -> int:
        """Leave in the seat's cache what it has in common with the prompt, or what another seat has if that is more,
        though at most `most` tokens; returns how many that are."""

        def useful(other: Seat) -> int:
            return self._engine.restorable(other.id, max(0, min(common_length(other.held, prompt), most)))

        best = max(self._seats, key=lambda other: (useful(other), other is seat))
        count = useful(best)
        seat.held = prompt
        return self._engine.truncate(seat.id, count) if best is seat else self._engine.share(best.id, seat.id, count)

    def leave(self, seat: Seat) -> None:
        """The answer is over; what is in the cache stays there."""
        seat.taken = False
        seat.held = seat.held[: self._engine.length(seat.id)]

    def forget(self, seat: Seat) -> None:
        """What is in the cache is not known any more."""
        seat.held = []
        self._engine.truncate(seat.id, 0)
