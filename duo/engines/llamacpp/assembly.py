"""A forward pass under way: its tokens and their sequences, and how to take back what it changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from duo.engines import checks
from duo.engines.base import ROOT, Chunk, Row
from duo.engines.llamacpp.native import seq_cp, seq_rm
from duo.engines.llamacpp.sequences import Node, SequencePool, SlotTree
from duo.errors import ContextError


class Assembly:
    """Rows and chunks that become one decode. Trees change as they are added; `undo` takes that back.

    live: rows of earlier passes by id. context: tokens of a slot.
    """

    __slots__ = (
        "_before", "_context", "_copies", "_grown", "_live", "_others", "_pool", "_trees", "new", "owners", "places",
        "tokens",
    )  # fmt: skip

    def __init__(self, trees: list[SlotTree], live: Mapping[int, Node], pool: SequencePool, context: int) -> None:
        self._trees, self._live, self._pool, self._context = trees, live, pool, context
        self.tokens: list[int] = []
        self.places: list[int] = []
        self.owners: list[Sequence[int]] = []
        """Sequences of each token."""
        self.new: dict[int, Node] = {}
        """The new rows, by id."""
        self._grown: dict[Node, int] = {}
        """Committed ends of slots that get a chunk, and their positions before."""
        self._others: dict[Node, list[int]] = {}
        """All sequences that a chunk's tokens or a new row must have."""
        self._copies: list[tuple[int, int, int, int]] = []
        """Committed tokens to copy: from which sequence to which one, first and end."""
        self._before: dict[int, tuple[SlotTree, Node | None, int]] = {}
        """For each sequence with new rows: tree, last node before (None: it is new), place of the first new row."""

    def add_chunks(self, chunks: Sequence[Chunk], vocabulary: int) -> None:
        """Append each chunk to the committed tokens of its slot. Chunks come before rows, so that the logits, which
        only rows have, lie in the order of the rows. Raises ValueError or ContextError."""
        for slot, tokens, _ in chunks:
            tree, root = self._trees[slot], self._trees[slot].root
            checks.check_chunk(slot, tokens, bool(tree.rows) or root in self._grown, vocabulary)
            end = root.pos + 1 + len(tokens)
            checks.check_context(end, self._context)
            self._grown[root] = root.pos
            self._others[root] = owners = [root.seq]
            self.tokens += tokens
            self.places += range(root.pos + 1, end)
            self.owners += [owners] * len(tokens)
            root.pos = end - 1

    def add_rows(self, rows: Sequence[Row]) -> None:
        """Append the rows to their trees. Raises ValueError or ContextError."""
        trees, live, new, before, context = self._trees, self._live, self.new, self._before, self._context
        tokens, places, all_owners, others = self.tokens, self.places, self.owners, self._others
        for row, slot, token, above, _ in rows:
            tree = trees[slot]
            parent = tree.root if above == ROOT else live.get(above) or new.get(above)
            if parent is None or parent.tree is not tree:
                raise ValueError(f"row {row} of slot {slot} has no parent {above} there")
            pos = parent.pos + 1
            if pos >= context:
                raise ContextError(f"a path does not fit the context of {context} tokens")
            seq = parent.seq
            if tree.tips[seq] is not parent:
                seq = self._branch(tree, parent)
            elif seq not in before:
                before[seq] = (tree, parent, pos)
            node = Node(row, parent, pos, seq, tree)
            new[row] = node
            tree.tips[seq] = node
            others[node] = owners = [seq]
            tokens.append(token)
            places.append(pos)
            all_owners.append(owners)

    def _branch(self, tree: SlotTree, parent: Node) -> int:
        """A new sequence that holds the path to `parent`, whose own sequence goes on with another row."""
        seq = self._pool.take(tree, self._trees)
        self._before[seq] = (tree, None, parent.pos + 1)
        # Nodes of this pass have no cells yet. They get the new sequence as their cells are made.
        at: Any = parent
        while at.id in self.new:
            self._others[at].append(seq)
            at = at.parent
        end = at.pos
        if at in self._grown:
            self._others[at].append(seq)
            end = self._grown[at]
        committed = self._pool.committed[seq]
        if committed <= end:
            self._copies.append((at.seq, seq, committed, end + 1))
        return seq

    def copy(self, memory: Any) -> None:
        """Give new sequences the cells of their paths that are there already."""
        for source, target, first, end in self._copies:
            seq_cp(memory, source, target, first, end)

    def finish(self, memory: Any) -> None:
        """The decode succeeded: new rows are rows of their trees, and guards get the new cells."""
        for row, node in self.new.items():
            node.tree.rows[row] = node
        for root, pos in self._grown.items():
            if root.tree.guard is not None:
                seq_cp(memory, root.seq, root.tree.guard, pos + 1, root.pos + 1)
        for seq, (tree, _, pos) in self._before.items():
            if tree.guard is not None:
                seq_cp(memory, seq, tree.guard, pos, -1)

    def undo(self, memory: Any, copied: bool) -> None:
        """Forget the pass. copied: `copy` was called, so llama.cpp's memory must forget it too."""
        for root, pos in self._grown.items():
            root.pos = pos
            if copied:
                seq_rm(memory, root.seq, pos + 1, -1)
        for seq, (tree, tip, pos) in self._before.items():
            if tip is not None:
                tree.tips[seq] = tip
                if copied:
                    seq_rm(memory, seq, pos, -1)
                continue
            del tree.tips[seq]
            committed = self._pool.committed[seq]
            if copied:
                committed = tree.root.pos + 1
                seq_rm(memory, seq, committed, -1)
            self._pool.give(tree, seq, committed)
