"""Which session has which slot of a draft model's engine.

A slot keeps what it has read when its session ends or loses it, and whatever a new session has in common with any slot
is not read again. Where there are more sessions than slots they take turns by value: the slot of the session that has
least to gain goes to one that has more. Reading the tokens of a session costs time as well, so one that has just been
read keeps its slot until it has made something of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from duo.draft.draft import Draft
from duo.draft.policy import MAX_ROWS, RIDERS, room
from duo.engines.base import Engine
from duo.prefix import Prefix

TENURE = 8
"""Tokens read for a session in a slot per place that it may expand there before another, of more value, takes it."""


@dataclass(slots=True, eq=False)
class Slot:
    """A slot: whose it is, or whose it was last and how many tokens of that are still there."""

    id: int
    draft: Draft | None = None
    last: Prefix = field(default_factory=Prefix)
    left: int = 0
    read: int = 0
    """Tokens read for the draft since it came, and the places expanded for it."""
    drafted: int = 0
    used: int = 0
    """When something was drafted here last: the count of batches by then."""

    @property
    def prefix(self) -> Prefix:
        return self.draft.prefix if self.draft is not None else self.last

    @property
    def held(self) -> int:
        """Tokens of `prefix` in the slot."""
        return self.draft.held if self.draft is not None else self.left

    @property
    def worth(self) -> float:
        """What there is to be done for the draft counts for so much; 0: nothing."""
        draft = self.draft
        return 0.0 if draft is None or (draft.ahead and not draft.behind) else draft.weight

    @property
    def tenured(self) -> bool:
        """Whether what was read for the draft has been made use of."""
        return self.drafted * TENURE >= self.read

    def common(self, prefix: Prefix) -> int:
        """How many tokens of the slot are the beginning of another sequence, the last token of that left out, which
        is always read anew."""
        low, high = 0, max(0, min(self.held, len(prefix) - 1))
        while low < high:
            middle = (low + high + 1) // 2
            if self.prefix.hash_at(middle) == prefix.hash_at(middle):
                low = middle
            else:
                high = middle - 1
        return low


class Slots:
    """The slots of an engine. One thread uses it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._slots = [Slot(slot) for slot in range(max(1, min(engine.slots, engine.capacity)))]
        self._of: dict[int, Slot] = {}
        self._known = True
        """Whether it is known what those slots hold that are nobody's."""

    def __len__(self) -> int:
        """How many are taken."""
        return len(self._of)

    def of(self, draft: Draft) -> Slot | None:
        """Where a draft has its place; None if it has none."""
        return self._of.get(draft.session)

    def give(self, draft: Draft, anyway: bool = False) -> bool:
        """Find a slot for a draft that has none; returns whether there was one. `anyway`: there is, if it is only the
        least valuable of them."""
        if not self._known:
            for each in self._slots:
                self._engine.truncate(each.id, 0)
            self._known = True
        slot = self._choose(draft, anyway)
        if slot is None:
            return False
        if slot.draft is not None:
            self._vacate(slot)
        draft.moved(self._engine.truncate(slot.id, slot.common(draft.prefix)))
        slot.draft, slot.read, slot.drafted = draft, 0, 0
        self._of[draft.session] = slot
        self._divide()
        return True

    def _choose(self, draft: Draft, anyway: bool) -> Slot | None:
        free = [slot for slot in self._slots if slot.draft is None]
        if free:
            # Where most can be used of what is there, or else least is lost.
            return min(free, key=lambda slot: (slot.held - 2 * self._common(slot, draft.prefix), slot.used))
        if draft.ahead and not anyway:
            return None  # it would be read, and could not go on
        worth = [(slot.worth, slot.used, slot.id) for slot in self._slots]
        if not anyway:
            worth = [it for it in worth if it[0] < draft.weight and (not it[0] or self._slots[it[2]].tenured)]
        return self._slots[min(worth)[2]] if worth else None

    def _common(self, slot: Slot, prefix: Prefix) -> int:
        """How many tokens of another sequence can be had from the slot, which may go back to a checkpoint only."""
        return self._engine.restorable(slot.id, slot.common(prefix))

    def borrow(self, draft: Draft) -> None:
        """Have what another slot holds of the beginning of this draft and its own does not, if that is more than rides
        along anyway."""
        slot = self._of[draft.session]
        best, other = max(((self._common(each, draft.prefix), each) for each in self._slots), key=lambda it: it[0])
        if best > draft.held + RIDERS:
            draft.moved(self._engine.share(other.id, slot.id, best))

    def leave(self, draft: Draft) -> None:
        """The draft needs its slot no more. What is there stays for another."""
        slot = self._of.get(draft.session)
        if slot is not None:
            self._engine.commit(slot.id, draft.settle(0).path)
            self._vacate(slot)
            self._divide()

    def lost(self, draft: Draft) -> None:
        """It is not known what the slot of this draft holds."""
        slot = self._of[draft.session]
        self._vacate(slot)
        self._engine.truncate(slot.id, 0)
        slot.last, slot.left = Prefix(), 0
        self._divide()

    def forget(self) -> None:
        """No slot is anybody's, and it is not known what they hold. Asks nothing of the engine: it may have failed."""
        for slot in self._slots:
            if slot.draft is not None:
                self._vacate(slot)
            slot.last, slot.left = Prefix(), 0
        self._known = False

    def settle(self, draft: Draft, slot: Slot, most: int = 0) -> list[int]:
        """Make the slot agree with what is committed; returns what is still to be read into it, of that at most `most`
        tokens, which are taken to be read from now on."""
        kept = draft.settle(most)
        self._engine.commit(slot.id, kept.path, kept.rest)
        return list(kept.missing)

    def _vacate(self, slot: Slot) -> None:
        draft = slot.draft
        assert draft is not None
        slot.last, slot.left, slot.draft = draft.prefix, draft.held, None
        del self._of[draft.session]
        draft.moved(0)

    def _divide(self) -> None:
        """Divide the room for rows between the sessions. What one has too many is forgotten at once: another may need
        the room in the next batch."""
        rows = min(self._engine.capacity, room(len(self._slots)))
        share = min(MAX_ROWS, rows // max(1, len(self._of)))
        for slot in self._of.values():
            draft = slot.draft
            assert draft is not None
            if draft.room != share:
                draft.room = share
                draft.shed(share)
                self.settle(draft, slot)
