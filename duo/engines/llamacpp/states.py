"""Trees over models with recurrent layers, for drafting: a sequence of llama.cpp for every row.

A state has seen one path. So each row that others may hang from has its own sequence, which holds the state after it. A
row forks its parent's sequence. That costs nothing until the fork is decoded, which copies the state. Rows of the same
depth share a decode; a row that hangs from another row of the same call comes in a later decode.

Rows in a line are decoded together: each but the last has one child in the call. Then only the last of them has a
state. The others are *hollow*: what hangs from them later begins at the nearest state above, and reads the rows between
again. This is meant for committed tokens that ride along, which soon become the committed end itself.

llama.cpp keeps no snapshots of states here (`n_rs_seq` is 0), so nothing is pending when a sequence is forked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import llama_cpp

from duo.engines import checks
from duo.engines.base import ROOT, TREES, Chunk, InterruptedForwardError, Logits, Row
from duo.engines.llamacpp import native
from duo.engines.llamacpp.native import seq_cp, seq_rm
from duo.engines.llamacpp.recurrent import CHECKPOINT_BYTES, MIN_ROWS
from duo.engines.llamacpp.runtime import Model
from duo.engines.llamacpp.slots import MAX_RIDERS, Slot, SlotRuntime
from duo.engines.options import EngineOptions


class Node:
    """A row. `parent` is None if it hangs from the committed end. `seq` is the sequence that holds the state after it;
    None while the row is hollow."""

    __slots__ = ("id", "parent", "pos", "seq", "token", "tree")

    def __init__(self, row: int, tree: StateTree, token: int, parent: Node | None, pos: int) -> None:
        self.id = row
        self.tree = tree
        self.token = token
        self.parent = parent
        self.pos = pos
        self.seq: int | None = None


class StateTree(Slot):
    """A slot whose rows are a tree."""

    def __init__(self, seq: int, checkpoint_bytes: int) -> None:
        super().__init__(seq, checkpoint_bytes)
        self.rows: dict[int, Node] = {}


class _Line(NamedTuple):
    """Rows that are decoded together, and their places in the call."""

    nodes: list[Node]
    places: list[int]


class StateTreeEngine(SlotRuntime):
    """Implements `duo.engines.Engine` for draft models with recurrent layers."""

    rollback = TREES

    def __init__(self, model: Model, options: EngineOptions) -> None:
        """Raises ModelError if memory or the number of sequences does not suffice."""
        slots = options.slots
        model.check_slots(slots, llama_cpp.llama_max_parallel_sequences() // (1 + MIN_ROWS))
        assert model.states is not None, "it has recurrent layers"
        capacity, batch = model.states.rows(options), max(1, options.batch)
        # Tokens that are read again have cells besides those of the hollow rows.
        cells = slots * model.context + capacity * (1 + MAX_RIDERS)
        width = batch + MAX_RIDERS + capacity
        context = native.make_context(model.path, model.handle, options, cells, width, slots + capacity)
        super().__init__(model, options, context, batch, capacity, snapshots=0, apart=False, width=width)
        self.rows: dict[int, Node] = {}
        """Live rows of all slots, by id."""
        self.trees = [StateTree(slot, CHECKPOINT_BYTES // slots) for slot in range(slots)]
        self.free_sequences = set(range(slots, slots + capacity))
        self._interrupted = False

    @property
    def _state_note(self) -> str:
        states = self.slots + self.capacity
        return (
            f"{self.name} is recurrent: it drafts trees of at most {self.capacity} tokens, for which memory holds "
            f"{states} states of {self._state_mib:.1f} MiB"
        )

    def _read_alone(self, chunk: Chunk) -> None:
        self._all_or_nothing([chunk], [], 0)

    def forward(self, rows: Sequence[Row], chunks: Sequence[Chunk] = ()) -> Logits:
        width = checks.width_of(rows, chunks, self.batch)
        checks.check_capacity(len(self.rows) + len(rows), self.capacity)
        grown = self._check_chunks(chunks)
        checks.check_rows(rows, self.rows, self.size)
        new: dict[int, Node] = {}
        for row, slot, token, above, _ in rows:
            tree = self._slot(slot)
            parent = None if above == ROOT else self.rows.get(above) or new.get(above)
            if above != ROOT and (parent is None or parent.tree is not tree):
                raise ValueError(f"row {row} of slot {slot} has no parent {above} there")
            pos = parent.pos + 1 if parent is not None else len(tree.tokens) + grown.get(slot, 0)
            checks.check_context(pos + 1, self.context)
            new[row] = Node(row, tree, token, parent, pos)
        if not width:
            return self._logits[:0]
        self._interrupted = False
        return self._all_or_nothing(chunks, list(new.values()), len(rows))

    def interrupt(self) -> None:
        self._interrupted = True  # a decode runs to its end, and no further one begins

    def commit(self, slot: int, path: Sequence[int], rest: Collection[int] = ()) -> None:
        tree = self._slot(slot)
        nodes: list[Node] = checks.path_nodes(slot, tree.rows, path, None)
        end = nodes[-1] if nodes else None
        kept: dict[int, Node] = checks.kept_nodes(slot, tree.rows, rest, end)
        tree.tokens += [node.token for node in nodes]
        deepest = next((node for node in reversed(nodes) if node.seq is not None), None)
        if deepest is not None and deepest.seq is not None:
            # Its state is now the state of the committed tokens, and the sequence of those before becomes free.
            tree.seq, deepest.seq = deepest.seq, tree.seq
            tree.read, tree.stale = deepest.pos + 1, False
        for row, node in tree.rows.items():
            if row not in kept:
                del self.rows[row]
                self._release(node)
        tree.rows = kept
        for node in kept.values():
            if node.parent is end:
                node.parent = None

    def _slot(self, slot: int) -> StateTree:
        return checks.at(self.trees, slot)

    def _forget_rows(self, slot: int) -> None:
        self.commit(slot, ())

    def _lose(self) -> None:
        for node in self.rows.values():
            self._release(node)
        for tree in self.trees:
            tree.stale = True

    def _release(self, node: Node) -> None:
        if node.seq is not None:
            seq_rm(self.memory, node.seq, -1, -1)
            self.free_sequences.add(node.seq)
            node.seq = None

    def _all_or_nothing(self, chunks: Sequence[Chunk], new: Sequence[Node], count: int) -> Logits:
        """Read the chunks and run the rows. If that fails, all slots are as before."""
        lengths = {chunk.slot: len(self.trees[chunk.slot].tokens) for chunk in chunks}
        try:
            for slot, tokens, _ in chunks:
                self._read_chunk(slot, tokens)
            for tree in {node.tree for node in new}:
                prompted = tree.prompted
                self._prepare(tree)
                if prompted:
                    self._catch_up(tree)  # or its end would be read again for each row that hangs from there
            logits = self._logits[:0]
            for lines in _waves(new):
                left = list(lines)
                while left:
                    logits = self._run(left, count)
        except BaseException:
            for node in new:
                self._release(node)
            for slot, length in lengths.items():
                self.trees[slot].cut(length)
                self._go_back(self.trees[slot])
            raise
        for node in new:
            self.rows[node.id] = node.tree.rows[node.id] = node
        return logits

    def _run(self, lines: list[_Line], count: int) -> Logits:
        """Decode as many lines as one decode holds, and take them from the list. None hangs from another one."""
        if self._interrupted:
            raise InterruptedForwardError
        tokens: list[int] = []
        places: list[int] = []
        owners: list[Sequence[int]] = []
        quiet: list[int] = []
        wanted: list[int] = []
        # In a model without cells only neighbouring sequences share a part of a decode. So they ascend.
        for seq in sorted(self.free_sequences)[: len(lines)]:
            line = lines[0]
            source, start, again = self._above(line.nodes[0])
            end = line.nodes[-1].pos + 1
            if len(tokens) + end - start > self._width:
                break
            del lines[0]
            self.free_sequences.discard(seq)
            line.nodes[-1].seq = seq
            if start:
                seq_cp(self.memory, source, seq, 0, start)
            quiet += range(len(tokens), len(tokens) + len(again))
            tokens += again + [node.token for node in line.nodes]
            places += range(start, end)
            owners += [(seq,)] * (end - start)
            wanted += line.places
        self._decode(tokens, places, owners, quiet)
        whole = len(wanted) == count and wanted == list(range(count))
        return self._take_logits(len(wanted), None if whole else wanted, count)

    def _above(self, node: Node) -> tuple[int, int, list[int]]:
        """The nearest state above a row: its sequence, how many tokens it has seen, and the tokens after it."""
        again: list[int] = []
        at = node.parent
        while at is not None:
            if at.seq is not None:
                return at.seq, at.pos + 1, again[::-1]
            again.append(at.token)
            at = at.parent
        tree = node.tree
        return tree.seq, tree.read, tree.tokens[tree.read :] + again[::-1]


def _waves(new: Sequence[Node]) -> Iterator[Sequence[_Line]]:
    """Divide the rows of a call into lines, and the lines into decodes: each line comes after the one it hangs from."""
    children = Counter(node.parent for node in new)
    lines: list[_Line] = []
    waves: list[int] = []
    line_of: dict[Node | None, int] = {}
    for place, node in enumerate(new):
        above = line_of.get(node.parent)
        if above is not None and children[node.parent] == 1:
            lines[above].nodes.append(node)
            lines[above].places.append(place)
            line_of[node] = above
        else:
            line_of[node] = len(lines)
            lines.append(_Line([node], [place]))
            waves.append(0 if above is None else waves[above] + 1)
    for wave in range(max(waves, default=-1) + 1):
        yield [line for line, of in zip(lines, waves, strict=True) if of == wave]
