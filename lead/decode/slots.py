"""Which slot of the engine an answer gets, and what of its prompt the cache holds already.

A slot keeps its keys and values when its answer is over. The next question goes where most of its prompt is still in
the cache, unless that would throw away more than it saves; then it takes a copy of the common prefix to a slot that has
waited longest. So a conversation finds its slot again, and what many conversations begin with is computed once.
"""

from __future__ import annotations

from collections.abc import Iterator

from duo.engines import Engine
from duo.prefix import common_length


class Slot:
    """A slot. `taken`: whether an answer has it. `held`: tokens that begin with what the slot's cache holds, and may go
    on after that."""

    __slots__ = ("held", "id", "taken", "used")

    def __init__(self, slot: int) -> None:
        self.id = slot
        self.held: list[int] = []
        self.taken = False
        self.used = 0
        """When it was given away last, as a running number."""


class Slots:
    """All slots of an engine. The decode loop's thread uses it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._slots = [Slot(slot) for slot in range(engine.slots)]
        self._given = 0

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots)

    @property
    def free(self) -> int:
        """How many are free."""
        return sum(not slot.taken for slot in self._slots)

    def common(self, slot: Slot, prompt: list[int]) -> int:
        """How many tokens of the prompt can be had from the seat's cache."""
        return self._engine.restorable(slot.id, common_length(slot.held, prompt))

    def known(self, prompt: list[int]) -> int:
        """How many tokens of the prompt some seat's cache begins with."""
        return max(self.common(slot, prompt) for slot in self._slots)

    def take(self, prompt: list[int]) -> Slot | None:
        """A seat for a new answer; None while all are taken."""
        free = [slot for slot in self._slots if not slot.taken]
        if not free:
            return None
        slot = max(free, key=lambda slot: (self.common(slot, prompt), -slot.used))
        if 2 * self.common(slot, prompt) < self._engine.length(slot.id):
            slot = self._longest_idle(free)
        self._given += 1
        slot.taken, slot.used = True, self._given
        return slot

    def _longest_idle(self, free: list[Slot]) -> Slot:
        """The free seat that has waited longest. Where only neighbours share a pass: of the half that has, one beside a
        seat that is taken. What was used lately has the cache of a conversation that may go on."""
        free.sort(key=lambda slot: slot.used)
        if self._engine.neighbours:
            beside = {slot.id + step for slot in self._slots if slot.taken for step in (-1, 1)}
            return min(free[: (len(free) + 1) // 2], key=lambda slot: slot.id not in beside)
        return free[0]

    def settle(self, slot: Slot, prompt: list[int], most: int) -> int:
        """Leave in the seat's cache what it has in common with the prompt, or what another seat has if that is more,
        though at most `most` tokens; returns how many that are."""

        def useful(other: Slot) -> int:
            return self._engine.restorable(other.id, max(0, min(common_length(other.held, prompt), most)))

        best = max(self._slots, key=lambda other: (useful(other), other is slot))
        count = useful(best)
        slot.held = prompt
        return self._engine.truncate(slot.id, count) if best is slot else self._engine.share(best.id, slot.id, count)

    def leave(self, slot: Slot) -> None:
        """The answer is over; what is in the cache stays there."""
        slot.taken = False
        slot.held = slot.held[: self._engine.length(slot.id)]

    def forget(self, slot: Slot) -> None:
        """What is in the cache is not known any more."""
        slot.held = []
        self._engine.truncate(slot.id, 0)
