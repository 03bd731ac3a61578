"""Which slot of the engine an answer gets, and how much of its prompt the cache holds already.

A slot keeps its keys and values when its answer is over. The next question goes to the slot that holds most of its
prompt. If that would throw away more than it saves, the common prefix is copied to the slot that was idle longest. So a
conversation finds its slot again, and what many conversations begin with is computed once.

What a slot loses to another prompt goes to the cache of prompts, if there is one (see `lead.decode.swap`).
"""

from __future__ import annotations

from duo.engines import Engine
from duo.engines.slot_copy import SlotCopy
from duo.errors import BusyError
from duo.prefix import common_length
from lead.decode.swap import Swap

KEPT_SHARE = 0.5
"""A slot that keeps less than this share of its tokens loses a conversation that may go on."""


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

    def __init__(self, engine: Engine, cache_bytes: int = 0) -> None:
        """cache_bytes: most bytes of prompts that left their slots; 0: none are kept."""
        self._engine = engine
        self.swap = Swap(engine, cache_bytes)
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
        """How many tokens of the prompt the best slot can give, or a prompt that left its slot."""
        known = max(self.common(slot, prompt) for slot in self._slots)
        found = self.swap.find(prompt, len(prompt) - 1, known)
        return found.length if found is not None else known

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
        """Give the slot's cache the longest beginning of the prompt that is known.

        The slot may have it, another slot may share it, or it is brought back from memory. Returns how many tokens
        that is, at most `max_tokens`.
        """

        def useful(other: Slot) -> int:
            return self._engine.restorable(other.id, max(0, min(common_length(other.held, prompt), max_tokens)))

        def rank(other: Slot) -> tuple[int, bool]:
            return useful(other), other is slot

        best = max(self._slots, key=rank)
        count = useful(best)
        found = self.swap.find(prompt, max_tokens, count)
        self._rescue(slot, count if best is slot and found is None else 0)
        if found is not None:
            slot.held = found.kept.tokens if self.swap.bring_back(slot.id, found) else []
            best = max(self._slots, key=rank)
            count = useful(best)
        slot.held = prompt
        return self._engine.truncate(slot.id, count) if best is slot else self._engine.share(best.id, slot.id, count)

    def _rescue(self, slot: Slot, kept: int) -> None:
        """The slot is about to lose all but the first tokens: have the others kept, unless another slot has them."""
        held = self._engine.length(slot.id)
        if not self.swap.on or kept >= KEPT_SHARE * held:
            return
        tokens = slot.held[:held]
        if all(other is slot or common_length(other.held, tokens) < held for other in self._slots):
            self.swap.keep(slot.id, tokens)

    def save(self, slot: int) -> tuple[list[int], SlotCopy]:
        """What an idle slot holds: tokens, and a copy of its memory. Raises BusyError or ContextError."""
        idle = self._idle(slot)
        copy = self._engine.save(slot)
        return idle.held[: copy.length], copy

    def restore(self, slot: int, tokens: list[int], copy: SlotCopy) -> int:
        """Let an idle slot hold this. Returns how many tokens it has. Raises BusyError or ContextError."""
        idle = self._idle(slot)
        self._rescue(idle, 0)
        idle.held = []
        count = self._engine.restore(slot, copy, tokens)
        self._given += 1
        idle.held, idle.used = tokens[:count], self._given
        return count

    def erase(self, slot: int) -> int:
        """Empty an idle slot. Returns how many tokens it held. Raises BusyError."""
        idle = self._idle(slot)
        count = self._engine.length(slot)
        self.forget(idle)
        return count

    def _idle(self, slot: int) -> Slot:
        if self._slots[slot].taken:
            raise BusyError(f"slot {slot} is answering: try again later")
        return self._slots[slot]

    def leave(self, slot: Slot) -> None:
        """The answer is over. The cache stays."""
        slot.taken = False
        slot.held = slot.held[: self._engine.length(slot.id)]

    def forget(self, slot: Slot) -> None:
        """Empty the cache: what it holds is not known any more."""
        slot.held = []
        self._engine.truncate(slot.id, 0)
