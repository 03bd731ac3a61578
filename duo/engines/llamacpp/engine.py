"""GGUF models through llama.cpp.

llama.cpp knows no trees. It knows *sequences*: a KV cell (one token's keys and values) belongs to a set of them, and a
token attends to the cells of its own sequence. So every leaf of a slot's tree has a sequence that holds the path to
it, and a cell that several leaves share belongs to several sequences. The committed end of a slot is a node of its
tree like any other: while no row hangs from it, it is the leaf.

Each node names one sequence that holds its path, its `seq`. A row whose parent is the last node of the parent's
sequence goes on in that sequence, at no cost; any other row gets a new one. Giving a new sequence the whole path costs
a microsecond for every twenty tokens or so, which a small model with a long context would feel at each branch. Hence
sequences that lose their rows are not emptied: they keep their committed tokens, wait as the slot's *spares*, and are
given only what is missing.
"""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Sequence
from typing import Any

import llama_cpp

from duo.engines.base import ROOT, TREES, Chunk, Logits, Rollback, Row
from duo.engines.llamacpp import native
from duo.engines.llamacpp.runtime import Model, Runtime
from duo.engines.llamacpp.sequences import Node, Slot
from duo.engines.options import EngineOptions
from duo.errors import ContextError

_SPARE_CELLS = 1 << 20
"""Committed tokens that all spares together may hold: llama.cpp spends 48 bytes on each."""
_IDLE = 64
"""Calls of others after which an idle slot's cells are put aside: every row attends over the cells of all slots."""
_TIDY_EVERY = 8
"""Calls after which it is looked for such a slot."""

_seq_cp = llama_cpp.llama_memory_seq_cp
_seq_rm = llama_cpp.llama_memory_seq_rm


class LlamaCppEngine(Runtime):
    """Implements `duo.engines.Engine` for a GGUF file with attention in all layers."""

    def __init__(self, model: Model, options: EngineOptions) -> None:
        """Raises ModelError if memory or the number of sequences does not suffice."""
        slots = options.slots
        self._capacity = max(1, options.tree_rows)
        cells = slots * model.context + self._capacity
        batch = max(1, min(options.batch, cells))

        # A cell that only one sequence has, and that lies outside of that sequence's attention window, is free for the
        # taking to llama.cpp, even with a full-size cache. Going back would then find a hole. A second sequence per
        # slot that has all of the slot's cells, and is never decoded, prevents it.
        per_slot = 2 if model.windowed else 1
        most = llama_cpp.llama_max_parallel_sequences()
        model.check_slots(slots, (most - 1) // per_slot)
        # One for every leaf there can be, and no more: llama.cpp's own work in each decode grows with the square of
        # this number (2 microseconds at 64, 10 at 128, 32 at 256).
        sequences = min(most, slots * per_slot + self._capacity)

        super().__init__(
            model, options, native.make_context(model.path, model.handle, options, cells, batch, sequences)
        )
        self._batch = batch
        self._arrays = native.Batch(batch)
        self._stop = native.Stop(self._llama)
        self._rows: dict[int, Node] = {}
        self._empty = list(range(sequences - 1, slots * per_slot - 1, -1))
        self._have = [0] * sequences  # how many committed tokens a spare holds
        self._spare_cells = 0
        self._slots = [Slot(i, slots + i if model.windowed else None) for i in range(slots)]
        self._calls = 0

    @property
    def slots(self) -> int:
        return len(self._slots)

    @property
    def rollback(self) -> Rollback:
        return TREES

    @property
    def mixes(self) -> bool:
        return True

    def length(self, slot: int) -> int:
        return self._at(slot).root.pos + 1

    def extend(self, slot: int, tokens: Sequence[int]) -> None:
        state = self._slot(slot)
        count = len(tokens)
        if count:
            self._check_tokens(tokens)
        self.commit(slot, ())
        end = state.root.pos + 1 + count
        self._check_length(end)
        try:
            for first in range(0, count, self._batch):
                self.forward((), [Chunk(slot, tokens[first : first + self._batch])])
        except BaseException:
            self.truncate(slot, end - count)
            raise

    def forward(self, rows: Sequence[Row], chunks: Sequence[Chunk] = ()) -> Logits:
        count = len(rows)
        width = count + sum(len(chunk.tokens) for chunk in chunks)
        if width > self._batch:
            raise ValueError(f"{width} rows are more than the batch of {self._batch}")
        if len(self._rows) + count > self._capacity:
            raise ContextError(f"{len(self._rows) + count} rows do not fit: there is room for {self._capacity}")
        if not width:
            return self._logits[:0]
        self._tidy()
        for at in {row.slot for row in rows} | {chunk.slot for chunk in chunks}:
            self._slot(at)
        # The tokens of the pieces come first, so that the logits, which only rows have, lie in the order of the rows.
        tokens: list[int] = []
        places: list[int] = []
        owners: list[Sequence[int]] = []
        grown: dict[Node, int] = {}  # committed ends of slots that get a piece, and where they were
        others: dict[Node, list[int]] = {}  # further sequences that are to have a piece's tokens, or a new row
        copies: list[tuple[int, int, int, int]] = []
        # The sequences in use: slot, last node before (None for a new sequence), place of the first new row.
        before: dict[int, tuple[Slot, Node | None, int]] = {}
        new: dict[int, Node] = {}
        slots, live, context, size = self._slots, self._rows, self._context, self._size
        try:
            for at, chunk in chunks:
                slot, root = slots[at], slots[at].root
                if slot.rows or root in grown:
                    raise ValueError(f"slot {at} cannot take a piece: it has rows or another one")
                self._check_tokens(chunk)
                end = root.pos + 1 + len(chunk)
                self._check_length(end)
                grown[root] = root.pos
                others[root] = owned = [root.seq]
                tokens += chunk
                places += range(root.pos + 1, end)
                owners += [owned] * len(chunk)
                root.pos = end - 1
            for row, at, token, above in rows:
                if not 0 <= at < len(slots):
                    raise ValueError(f"there is no slot {at}")
                if row < 0 or row in live or row in new:
                    raise ValueError(f"row {row} is negative or in use")
                if not 0 <= token < size:
                    raise ValueError(f"token {token} is not in the vocabulary of {size}")
                slot = slots[at]
                parent = slot.root if above == ROOT else live.get(above) or new.get(above)
                if parent is None or parent.slot is not slot:
                    raise ValueError(f"row {row} of slot {at} has no parent {above} there")
                pos = parent.pos + 1
                if pos >= context:
                    raise ContextError(f"a path does not fit the context of {context} tokens")
                seq = parent.seq
                tips = slot.tips
                if tips[seq] is parent:
                    if seq not in before:
                        before[seq] = (slot, parent, pos)
                else:
                    seq = self._take(slot)
                    before[seq] = (slot, None, pos)
                    # What of the path is in this batch has no cells yet: they are told of the sequence as they are
                    # made.
                    over: Any = parent
                    while over.id in new:
                        others[over].append(seq)
                        over = over.parent
                    known = over.pos
                    if over in grown:
                        others[over].append(seq)
                        known = grown[over]
                    if self._have[seq] <= known:
                        copies.append((over.seq, seq, self._have[seq], known + 1))
                node = Node(row, parent, pos, seq, slot)
                new[row] = node
                tips[seq] = node
                others[node] = owned = [seq]
                tokens.append(token)
                places.append(pos)
                owners.append(owned)
        except Exception:
            self._undo(before, grown, copied=False)
            raise

        memory = self._memory
        for source, target, first, end in copies:
            _seq_cp(memory, source, target, first, end)
        self._stop.clear()
        code = self._arrays.decode(self._llama, tokens, places, owners, slice(width - count))
        if code:
            self._undo(before, grown, copied=True)
            raise native.failed(code)

        live.update(new)
        for row, node in new.items():
            node.slot.rows[row] = node
        for root, pos in grown.items():
            if root.slot.guard is not None:
                _seq_cp(memory, root.seq, root.slot.guard, pos + 1, root.pos + 1)
        for seq, (slot, _, pos) in before.items():
            if slot.guard is not None:
                _seq_cp(memory, seq, slot.guard, pos, -1)
        return self._take_logits(count)

    def interrupt(self) -> None:
        self._stop.set()

    def commit(self, slot: int, path: Sequence[int], rest: Collection[int] = ()) -> None:
        state = self._slot(slot)
        rows = self._rows
        end = state.root
        for row in path:
            node = rows.get(row)
            if node is None or node.parent is not end:
                raise ValueError(f"row {row} does not continue the path in slot {slot}")
            end = node
        kept: dict[int, Node] = {}
        for row in rest:
            node = rows.get(row)
            if node is None or node.slot is not state:
                raise ValueError(f"slot {slot} has no row {row}")
            kept[row] = node
        for node in kept.values():
            above: Any = node.parent
            if above is not end and kept.get(above.id) is not above:
                raise ValueError(f"the rows to keep have {node.id} without its parent")
        if not state.rows:
            return

        memory = self._memory
        length = state.root.pos + 1
        for row in state.rows:
            if row not in kept:
                del rows[row]
        state.rows = kept
        # The path's end becomes the root itself, so that the rows below it need no new parent.
        end.parent, end.id = None, ROOT
        state.root = end

        guard = state.guard
        if guard is not None:
            _seq_rm(memory, guard, length, -1)
            if end.pos >= length:
                _seq_cp(memory, end.seq, guard, length, end.pos + 1)
        # What remains is a tree again: each leaf keeps its sequence, less what was below the leaf, and lends it to
        # those nodes above that have lost theirs.
        parents = {node.parent for node in kept.values()}
        tips: dict[int, Node] = {}
        seen: set[Node] = set()
        for leaf in [node for node in kept.values() if node not in parents] if kept else [end]:
            seq = leaf.seq
            tips[seq] = leaf
            if state.tips[seq] is not leaf:
                _seq_rm(memory, seq, leaf.pos + 1, -1)
            at: Any = leaf
            while at not in seen:
                seen.add(at)
                at.seq = seq
                if at is end:
                    break
                at = at.parent
            if guard is not None and leaf is not end:
                _seq_cp(memory, seq, guard, at.pos + 1, leaf.pos + 1)
        lost = [seq for seq in state.tips if seq not in tips]
        state.tips = tips
        for seq in lost:
            _seq_rm(memory, seq, length, -1)
            self._release(state, seq, length)

    def restorable(self, slot: int, length: int) -> int:
        return min(length, self.length(slot))

    def truncate(self, slot: int, length: int) -> int:
        state = self._slot(slot)
        if not 0 <= length <= state.root.pos + 1:
            raise ValueError(f"slot {slot} has {state.root.pos + 1} tokens, it cannot be cut to {length}")
        self.commit(slot, ())
        if length == state.root.pos + 1:
            return length
        state.root.pos = length - 1
        _seq_rm(self._memory, state.root.seq, length, -1)
        if state.guard is not None:
            _seq_rm(self._memory, state.guard, length, -1)
        spares, state.spares = state.spares, []
        for seq in spares:
            have = self._have[seq]
            self._spare_cells -= have
            if have > length:
                _seq_rm(self._memory, seq, length, -1)
            self._release(state, seq, min(have, length))
        return length

    def share(self, source: int, target: int, length: int) -> int:
        giver, taker = self._slot(source), self._slot(target)
        if not 0 <= length <= giver.root.pos + 1:
            raise ValueError(
                f"slot {source} has {giver.root.pos + 1} tokens, the first {length} of them cannot be shared"
            )
        if giver is taker:
            return self.truncate(target, length)
        self.truncate(target, 0)
        if not length:
            return 0
        # The cells are both slots' from now on: what one of them gives up stays the other's.
        _seq_cp(self._memory, giver.root.seq, taker.root.seq, 0, length)
        if taker.guard is not None:
            _seq_cp(self._memory, giver.root.seq, taker.guard, 0, length)
        taker.root.pos = length - 1
        return length

    def _at(self, slot: int) -> Slot:
        if not 0 <= slot < len(self._slots):
            raise ValueError(f"there is no slot {slot}")
        return self._slots[slot]

    def _slot(self, slot: int) -> Slot:
        """The slot, with its cells in llama.cpp's memory."""
        state = self._at(slot)
        state.used = self._calls
        if state.aside is not None:
            self._bring_back(state)
        return state

    def _tidy(self) -> None:
        """A call has come. Put aside one slot that has not been asked for in a while."""
        self._calls += 1
        if len(self._slots) == 1 or self._calls % _TIDY_EVERY:
            return
        for state in self._slots:
            waited = self._calls - state.used
            if (
                waited > _IDLE
                and state.aside is None
                and state.root.pos >= 0
                and not state.rows
                and state.guard is None
            ):
                self._put_aside(state)
                return

    def _put_aside(self, state: Slot) -> None:
        seq = state.root.seq
        size = llama_cpp.llama_state_seq_get_size(self._llama, seq)
        saved = (ctypes.c_uint8 * size)()
        if llama_cpp.llama_state_seq_get_data(self._llama, saved, size, seq) == size:
            state.aside = saved
            _seq_rm(self._memory, seq, -1, -1)
            spares, state.spares = state.spares, []
            for spare in spares:
                self._spare_cells -= self._have[spare]
                self._have[spare] = 0
                _seq_rm(self._memory, spare, -1, -1)
                self._empty.append(spare)

    def _bring_back(self, state: Slot) -> None:
        saved, state.aside = state.aside, None
        if not llama_cpp.llama_state_seq_set_data(self._llama, saved, len(saved), state.root.seq):
            state.root.pos = -1
            raise ContextError("llama.cpp has no room left for what a slot held; keep fewer rows")

    def _take(self, slot: Slot) -> int:
        """A sequence for a new leaf: one that has most of the path already, an empty one, or another slot's spare."""
        if slot.spares:
            seq = slot.spares.pop()
            self._spare_cells -= self._have[seq]
            return seq
        if self._empty:
            seq = self._empty.pop()
            self._have[seq] = 0
            return seq
        for other in self._slots:
            if other.spares:
                seq = other.spares.pop()
                self._spare_cells -= self._have[seq]
                self._have[seq] = 0
                _seq_rm(self._memory, seq, -1, -1)
                return seq
        raise ContextError("the draft tree has more leaves than llama.cpp has sequences; keep fewer rows")

    def _release(self, slot: Slot, seq: int, have: int) -> None:
        """Take back a sequence that holds just the slot's first `have` committed tokens."""
        if have and self._spare_cells + have <= _SPARE_CELLS:
            self._have[seq] = have
            self._spare_cells += have
            slot.spares.append(seq)
            return
        if have:
            _seq_rm(self._memory, seq, -1, -1)
        self._empty.append(seq)

    def _undo(self, before: dict[int, tuple[Slot, Node | None, int]], grown: dict[Node, int], copied: bool) -> None:
        """Forget what was new in a forward pass that did not happen, in the books and in llama.cpp's memory."""
        for root, pos in grown.items():
            root.pos = pos
            if copied:
                _seq_rm(self._memory, root.seq, pos + 1, -1)
        for seq, (slot, tip, pos) in before.items():
            if tip is not None:
                slot.tips[seq] = tip
                if copied:
                    _seq_rm(self._memory, seq, pos, -1)
                continue
            del slot.tips[seq]
            have = self._have[seq]
            if copied:
                have = slot.root.pos + 1
                _seq_rm(self._memory, seq, have, -1)
            self._release(slot, seq, have)
