"""GGUF models with attention in all layers, through llama.cpp: trees of rows.

llama.cpp knows no trees. It knows *sequences*: a KV cell (one token's keys and values) belongs to a set of sequences,
and a token attends to the cells of its own sequence. So each leaf of a slot's tree has a sequence that holds the path
to it. A cell that several leaves share belongs to several sequences. The committed end of a slot is a node of its tree
too: while no row hangs from it, it is the leaf.

Each node names one sequence that holds its path, its `seq`. A row whose parent is the last node of the parent's
sequence goes on in that sequence, at no cost; any other row gets a new one. To give a new sequence the whole path takes
a microsecond per twenty tokens, which a small model with a long context would feel at each branch. So sequences that
lose their rows are not emptied. They keep their committed tokens and wait as the slot's *spares*; a new leaf copies
only what they lack.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import llama_cpp

from duo.engines import checks
from duo.engines.base import ROOT, TREES, Chunk, Logits, Row
from duo.engines.llamacpp import copies, native
from duo.engines.llamacpp.assembly import Assembly
from duo.engines.llamacpp.native import seq_cp, seq_rm
from duo.engines.llamacpp.runtime import Model, Runtime
from duo.engines.llamacpp.sequences import Node, SequencePool, SlotTree
from duo.engines.options import EngineOptions
from duo.engines.slot_copy import SlotCopy
from duo.errors import ContextError

IDLE_CALLS = 64
"""A slot that was not used for this many calls is put aside, for every row attends over the cells of all slots."""
TIDY_EVERY = 8
"""Calls between two looks for such a slot."""


class LlamaCppEngine(Runtime):
    """Implements `duo.engines.Engine` for a GGUF file with attention in all layers."""

    rollback = TREES
    mixes = True

    def __init__(self, model: Model, options: EngineOptions) -> None:
        """Raises ModelError if memory or the number of sequences does not suffice."""
        slots = options.slots
        capacity = max(1, options.tree_rows)
        cells = slots * model.context + capacity
        batch = max(1, min(options.batch, cells))

        # Even with a full-size cache, llama.cpp takes cells away that only one sequence has and that lie outside of its
        # attention window. Going back would then find a hole. So each slot of such a model has a guard: a second
        # sequence with all of the slot's cells, which is never decoded.
        per_slot = 2 if model.windowed else 1
        max_sequences = llama_cpp.llama_max_parallel_sequences()
        model.check_slots(slots, (max_sequences - 1) // per_slot)
        # One for each possible leaf and no more: llama.cpp's own work per decode grows with the square of this number
        # (2 microseconds at 64, 10 at 128, 32 at 256).
        sequences = min(max_sequences, slots * per_slot + capacity)

        context = native.make_context(model.path, model.handle, options, cells, batch, sequences)
        super().__init__(model, options, context, batch, capacity)
        self._batch = native.Batch(batch)
        self._stop = native.Stop(self.llama)
        self.rows: dict[int, Node] = {}
        """Live rows of all slots, by id."""
        self.trees = [SlotTree(i, slots + i if model.windowed else None) for i in range(slots)]
        self.pool = SequencePool(self.memory, slots * per_slot, sequences)
        self._calls = 0

    def length(self, slot: int) -> int:
        return checks.at(self.trees, slot).root.pos + 1

    def extend(self, slot: int, tokens: Sequence[int]) -> None:
        tree = self._tree(slot)
        count = len(tokens)
        if count:
            checks.check_tokens(tokens, self.size)
        self.commit(slot, ())
        end = tree.root.pos + 1 + count
        checks.check_context(end, self.context)
        try:
            for first in range(0, count, self.batch):
                self.forward((), [Chunk(slot, tokens[first : first + self.batch])])
        except BaseException:
            self.truncate(slot, end - count)
            raise

    def forward(self, rows: Sequence[Row], chunks: Sequence[Chunk] = ()) -> Logits:
        count = len(rows)
        width = checks.width_of(rows, chunks, self.batch)
        checks.check_capacity(len(self.rows) + count, self.capacity)
        if not width:
            return self._logits[:0]
        self._tidy()
        for slot in {row.slot for row in rows}.union([chunk.slot for chunk in chunks]):
            self._tree(slot)
        checks.check_rows(rows, self.rows, self.size)
        assembly = Assembly(self.trees, self.rows, self.pool, self.context)
        try:
            if chunks:
                assembly.add_chunks(chunks, self.size)
            assembly.add_rows(rows)
        except Exception:
            assembly.undo(self.memory, copied=False)
            raise
        assembly.copy(self.memory)
        self._stop.clear()
        quiet = slice(width - count)
        code = self._batch.decode(self.llama, assembly.tokens, assembly.places, assembly.owners, quiet)
        if code:
            assembly.undo(self.memory, copied=True)
            raise native.failed(code)
        self.rows.update(assembly.new)
        assembly.finish(self.memory)
        return self._take_logits(count)

    def interrupt(self) -> None:
        self._stop.set()

    def commit(self, slot: int, path: Sequence[int], rest: Collection[int] = ()) -> None:
        tree = self._tree(slot)
        nodes = checks.path_nodes(slot, tree.rows, path, tree.root)
        end: Node = nodes[-1] if nodes else tree.root
        kept: dict[int, Node] = checks.kept_nodes(slot, tree.rows, rest, end) if rest else {}
        if not tree.rows:
            return
        length = tree.root.pos + 1
        for row in tree.rows:
            if row not in kept:
                del self.rows[row]
        tree.rows = kept
        # The path's end becomes the root itself, so that the rows below it need no new parent.
        end.parent, end.id = None, ROOT
        tree.root = end
        if tree.guard is not None:
            seq_rm(self.memory, tree.guard, length, -1)
            if end.pos >= length:
                seq_cp(self.memory, end.seq, tree.guard, length, end.pos + 1)
        tips = self._lend_sequences(tree, kept)
        lost = [seq for seq in tree.tips if seq not in tips]
        tree.tips = tips
        for seq in lost:
            seq_rm(self.memory, seq, length, -1)
            self.pool.give(tree, seq, length)

    def _lend_sequences(self, tree: SlotTree, kept: Mapping[int, Node]) -> dict[int, Node]:
        """Give the nodes that stay the sequences of their leaves. Returns the last node of each such sequence.

        What stays is a tree again. Each leaf keeps its sequence, without what was below the leaf, and lends it to the
        nodes above that have lost theirs.
        """
        memory, end, guard = self.memory, tree.root, tree.guard
        parents = {node.parent for node in kept.values()}
        tips: dict[int, Node] = {}
        seen: set[Node] = set()
        for leaf in [node for node in kept.values() if node not in parents] if kept else [end]:
            seq = leaf.seq
            tips[seq] = leaf
            if tree.tips[seq] is not leaf:
                seq_rm(memory, seq, leaf.pos + 1, -1)
            at: Any = leaf
            while at not in seen:
                seen.add(at)
                at.seq = seq
                if at is end:
                    break
                at = at.parent
            if guard is not None and leaf is not end:
                seq_cp(memory, seq, guard, at.pos + 1, leaf.pos + 1)
        return tips

    def restorable(self, slot: int, length: int) -> int:
        return min(length, self.length(slot))

    def truncate(self, slot: int, length: int) -> int:
        tree = self._tree(slot)
        checks.check_cut(slot, tree.root.pos + 1, length)
        self.commit(slot, ())
        if length == tree.root.pos + 1:
            return length
        tree.root.pos = length - 1
        seq_rm(self.memory, tree.root.seq, length, -1)
        if tree.guard is not None:
            seq_rm(self.memory, tree.guard, length, -1)
        self.pool.cut_spares(tree, length)
        return length

    def share(self, source: int, target: int, length: int) -> int:
        giver, taker = self._tree(source), self._tree(target)
        checks.check_share(source, giver.root.pos + 1, length)
        if giver is taker:
            return self.truncate(target, length)
        self.truncate(target, 0)
        if not length:
            return 0
        # The cells belong to both slots from now on: one may drop them, and the other keeps them.
        seq_cp(self.memory, giver.root.seq, taker.root.seq, 0, length)
        if taker.guard is not None:
            seq_cp(self.memory, giver.root.seq, taker.guard, 0, length)
        taker.root.pos = length - 1
        return length

    def copy_bytes(self, slot: int) -> int:
        tree = checks.at(self.trees, slot)
        return tree.aside.nbytes if tree.aside is not None else native.state_bytes(self.llama, tree.root.seq)

    def save(self, slot: int) -> SlotCopy:
        tree = checks.at(self.trees, slot)
        if tree.rows:
            self.commit(slot, ())
        return copies.save(self.llama, self.memory, tree, self.pool, self.trees, self.model.window)

    def restore(self, slot: int, copy: SlotCopy, tokens: Sequence[int]) -> int:
        checks.check_copy(copy, tokens, self.context, self.size)
        self.truncate(slot, 0)
        copies.restore(self.llama, self.memory, self._tree(slot), self.pool, self.trees, self.model.window, copy)
        return copy.length

    def _tree(self, slot: int) -> SlotTree:
        """The slot's tree, with its cells in llama.cpp's memory."""
        tree = checks.at(self.trees, slot)
        tree.last_use = self._calls
        if tree.aside is not None:
            self._bring_back(tree, tree.aside)
        return tree

    def _tidy(self) -> None:
        """Count a call. Now and then, put aside one slot that has been idle."""
        self._calls += 1
        if len(self.trees) == 1 or self._calls % TIDY_EVERY:
            return
        for tree in self.trees:
            idle = self._calls - tree.last_use > IDLE_CALLS and not tree.rows
            if idle and tree.aside is None and tree.root.pos >= 0 and tree.guard is None:
                self._put_aside(tree)
                return

    def _put_aside(self, tree: SlotTree) -> None:
        tree.aside = native.save_state(self.llama, tree.root.seq, 0)
        if tree.aside is not None:
            seq_rm(self.memory, tree.root.seq, -1, -1)
            self.pool.clear_spares(tree)

    def _bring_back(self, tree: SlotTree, saved: native.State) -> None:
        tree.aside = None
        if not native.restore_state(self.llama, tree.root.seq, saved, 0):
            tree.root.pos = -1
            raise ContextError("llama.cpp has no room left for what a slot held; keep fewer rows")
