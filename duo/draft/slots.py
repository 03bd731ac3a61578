"""Which session has which slot of a draft model's engine.

A slot keeps its tokens when its session ends or loses it. What a new session has in common with any slot is not read
again. When there are more sessions than slots, the slot of the session with least to gain goes to one with more.
Reading a session costs time as well, so a session that has just been read keeps its slot until that has paid.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from duo.draft.draft import Draft
from duo.draft.policy import MAX_RIDERS, MAX_ROWS, row_capacity
from duo.engines.base import Engine
from duo.prefix import Prefix

TENURE = 8
"""Tokens read that one expanded place pays for. Until they are paid, a session keeps its slot."""


@dataclass(slots=True, eq=False)
class Slot:
    """A slot with its session, or with what the last session left there: `left` tokens of `last`."""

    id: int
    draft: Draft | None = None
    last: Prefix = field(default_factory=Prefix)
    left: int = 0
    read: int = 0
    """Tokens read for the draft since it came."""
    drafted: int = 0
    """Places expanded for the draft since it came."""
    used: int = 0
    """Number of the last batch that had rows here."""

    @property
    def prefix(self) -> Prefix:
        return self.draft.prefix if self.draft is not None else self.last

    @property
    def cached_tokens(self) -> int:
        """Tokens of `prefix` in the slot."""
        return self.draft.cached_tokens if self.draft is not None else self.left

    @property
    def value(self) -> float:
        """What its session has to gain; 0 if there is nothing to do for it."""
        draft = self.draft
        return 0.0 if draft is None or (draft.idle and not draft.backlog) else draft.weight

    @property
    def tenured(self) -> bool:
        """Whether reading the session has paid."""
        return self.drafted * TENURE >= self.read

    def common(self, prefix: Prefix) -> int:
        """Tokens of the slot that begin another sequence. The sequence's last token never counts: it is read again."""
        low, high = 0, max(0, min(self.cached_tokens, len(prefix) - 1))
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
        """The contents of free slots are known."""

    def __len__(self) -> int:
        """Slots that are taken."""
        return len(self._of)

    def of(self, draft: Draft) -> Slot | None:
        """The slot of a draft, if it has one."""
        return self._of.get(draft.session)

    def give(self, draft: Draft, force: bool = False) -> bool:
        """Find a slot for a draft that has none. Returns whether there was one. `force`: take the least valuable."""
        if not self._known:
            for each in self._slots:
                self._engine.truncate(each.id, 0)
            self._known = True
        slot = self._choose(draft, force)
        if slot is None:
            return False
        if slot.draft is not None:
            self._vacate(slot)
        draft.change_slot(self._engine.truncate(slot.id, slot.common(draft.prefix)))
        slot.draft, slot.read, slot.drafted = draft, 0, 0
        self._of[draft.session] = slot
        self._divide()
        return True

    def _choose(self, draft: Draft, force: bool) -> Slot | None:
        free = [slot for slot in self._slots if slot.draft is None]
        if free:
            # The slot with most to reuse, or else with least to lose.
            return min(free, key=lambda slot: (slot.cached_tokens - 2 * self._reusable(slot, draft.prefix), slot.used))
        if draft.idle and not force:
            return None  # it would be read and could not go on
        values = [(slot.value, slot.used, slot.id) for slot in self._slots]
        if not force:
            values = [it for it in values if it[0] < draft.weight and (not it[0] or self._slots[it[2]].tenured)]
        return self._slots[min(values)[2]] if values else None

    def _reusable(self, slot: Slot, prefix: Prefix) -> int:
        """Tokens of another sequence that the slot can go back to. Some engines go back to checkpoints only."""
        return self._engine.restorable(slot.id, slot.common(prefix))

    def borrow(self, draft: Draft) -> None:
        """Copy the draft's beginning from another slot, if that saves more tokens than ride along with a batch."""
        slot = self._of[draft.session]
        best, other = max(((self._reusable(each, draft.prefix), each) for each in self._slots), key=lambda it: it[0])
        if best > draft.cached_tokens + MAX_RIDERS:
            draft.change_slot(self._engine.share(other.id, slot.id, best))

    def leave(self, draft: Draft) -> None:
        """Free the draft's slot, if it has one. Its tokens stay there for another session."""
        slot = self._of.get(draft.session)
        if slot is not None:
            self._engine.commit(slot.id, draft.update_cache(0).path)
            self._vacate(slot)
            self._divide()

    def lost(self, draft: Draft) -> None:
        """Free and clear the draft's slot, because its contents are unknown."""
        slot = self._of[draft.session]
        self._vacate(slot)
        self._engine.truncate(slot.id, 0)
        slot.last, slot.left = Prefix(), 0
        self._divide()

    def forget(self) -> None:
        """Free all slots after a failure: their contents are unknown. Does not call the engine, which may be broken."""
        for slot in self._slots:
            if slot.draft is not None:
                self._vacate(slot)
            slot.last, slot.left = Prefix(), 0
        self._known = False

    def update_cache(self, draft: Draft, slot: Slot, max_tokens: int = 0) -> list[int]:
        """Make the slot agree with what is committed. Returns the tokens that the caller must read now."""
        update = draft.update_cache(max_tokens)
        self._engine.commit(slot.id, update.path, update.rest)
        return list(update.missing)

    def _vacate(self, slot: Slot) -> None:
        draft = slot.draft
        assert draft is not None
        slot.last, slot.left, slot.draft = draft.prefix, draft.cached_tokens, None
        del self._of[draft.session]
        draft.change_slot(0)

    def _divide(self) -> None:
        """Divide the row capacity between the sessions. Rows beyond a share go now: a batch may need the room."""
        rows = min(self._engine.capacity, row_capacity(len(self._slots)))
        share = min(MAX_ROWS, rows // max(1, len(self._of)))
        for slot in self._of.values():
            draft = slot.draft
            assert draft is not None
            if draft.capacity != share:
                draft.capacity = share
                draft.trim_rows(share)
                self.update_cache(draft, slot)
