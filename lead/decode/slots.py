"""Which slot of the engine an answer gets, and how much of its prompt the cache holds already.

A slot keeps its keys and values when its answer is over. The next question goes to the slot that holds most of its
prompt. If that would throw away more than it saves, the common prefix is copied to the slot that was idle longest. So a
conversation finds its slot again, and what many conversations begin with is computed once.
"""

from __future__ import annotations

from duo.engines import Engine
from duo.prefix import common_length


class Slot:
    """A slot. `taken`: whether an answer has it. `held`: the tokens in its cache, and perhaps more after them."""

    __slots__ = ("held", "id", "taken", "used")

    def __init__(self, slot: int) -> None:
        self.id = slot
        self.held: list[int] = []
        self.taken = False
        self.used = 0
        """When it was taken last, as a running number."""


class Slots:
    """All slots of an engine. The decoder's thread uses it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._slots = [Slot(slot) for slot in range(engine.slots)]
        self._given = 0

    @property
    def free(self) -> int:
        """How many are free."""
        return sum(not slot.taken for slot in self._slots)

    def common(self, slot: Slot, prompt: list[int]) -> int:
        """How many tokens of the prompt the slot's cache can give."""
        return self._engine.restorable(slot.id, common_length(slot.held, prompt))

    def known(self, prompt: list[int]) -> int:
        """How many tokens of the prompt the best slot's cache can give."""
        return max(self.common(slot, prompt) for slot in self._slots)

    def take(self, prompt: list[int]) -> Slot:
        """A slot for a new answer, while one is free."""
        free = [slot for slot in self._slots if not slot.taken]
        slot = max(free, key=lambda slot: (self.common(slot, prompt), -slot.used))
        if 2 * self.common(slot, prompt) < self._engine.length(slot.id):
            slot = self._longest_idle(free)
        self._given += 1
        slot.taken, slot.used = True, self._given
        return slot

    def _longest_idle(self, free: list[Slot]) -> Slot:
        """The free slot that was idle longest. If only neighbours share a pass: of the half that was idle longer, one
        beside a taken slot. A slot used lately has the cache of a conversation that may go on."""
        free.sort(key=lambda slot: slot.used)
        if self._engine.neighbours:
            beside = {slot.id + step for slot in self._slots if slot.taken for step in (-1, 1)}
            return min(free[: (len(free) + 1) // 2], key=lambda slot: slot.id not in beside)
        return free[0]

    def settle(self, slot: Slot, prompt: list[int], max_tokens: int) -> int:
        """Leave in the slot's cache what it shares with the prompt, or copy it from a slot that shares more.

        Returns how many tokens that is, at most `max_tokens`.
        """

        def useful(other: Slot) -> int:
            return self._engine.restorable(other.id, max(0, min(common_length(other.held, prompt), max_tokens)))

        best = max(self._slots, key=lambda other: (useful(other), other is slot))
        count = useful(best)
        slot.held = prompt
        return self._engine.truncate(slot.id, count) if best is slot else self._engine.share(best.id, slot.id, count)

    def leave(self, slot: Slot) -> None:
        """The answer is over. The cache stays."""
        slot.taken = False
        slot.held = slot.held[: self._engine.length(slot.id)]

    def forget(self, slot: Slot) -> None:
        """Empty the cache: what it holds is not known any more."""
        slot.held = []
        self._engine.truncate(slot.id, 0)
