"""Trees over models with recurrent layers, for drafting: a sequence of llama.cpp for every row.

A state has seen one path. So each row that others may hang from has a sequence of its own, which holds the state after
it. A row forks its parent's sequence: that costs nothing until the fork is decoded, which copies the state. Rows of the
same depth share a decode, and a row that hangs from another one of the same call comes in a later one.

Rows in a line, of which each but the last has one child in the call, are decoded together. Only the last of them has a
state then. The others are *hollow*: what hangs from them later begins at the nearest state above, and reads the rows
between again. That is for committed tokens that ride along, which soon become the committed end itself.

llama.cpp keeps no snapshots of states here (`n_rs_seq` is 0), so nothing is pending when a sequence is forked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import llama_cpp

from duo.engines.base import ROOT, UNBOUNDED, Chunk, InterruptedForwardError, Logits, Rollback, Row
from duo.engines.llamacpp import native
from duo.engines.llamacpp.recurrent import CHECKPOINT_BYTES, LEAST_ROOM
from duo.engines.llamacpp.runtime import Model
from duo.engines.llamacpp.slots import RIDERS, Slot, SlotRuntime
from duo.engines.options import EngineOptions
from duo.errors import ContextError

_seq_cp = llama_cpp.llama_memory_seq_cp
_seq_rm = llama_cpp.llama_memory_seq_rm


class _Node:
    """A row. `parent`: None for one that hangs from the committed end. `seq`: the sequence that holds the state after
    it; None while it is hollow."""

    __slots__ = ("id", "parent", "pos", "seq", "slot", "token")

    def __init__(self, row: int, slot: _Slot, token: int, parent: _Node | None, pos: int) -> None:
        self.id = row
        self.slot = slot
        self.token = token
        self.parent = parent
        self.pos = pos
        self.seq: int | None = None


class _Slot(Slot):
    def __init__(self, seq: int, most_bytes: int) -> None:
        super().__init__(seq, most_bytes)
        self.rows: dict[int, _Node] = {}


class _Line(NamedTuple):
    """Rows to be decoded together, and their places in the call."""

    nodes: list[_Node]
    places: list[int]


class StateTreeEngine(SlotRuntime):
    """Implements `duo.engines.Engine` for draft models with recurrent layers."""

    def __init__(self, model: Model, options: EngineOptions) -> None:
        """Raises ModelError if memory or the number of sequences does not suffice."""
        slots = options.slots
        model.check_slots(slots, llama_cpp.llama_max_parallel_sequences() // (1 + LEAST_ROOM))
        assert model.states is not None, "it has recurrent layers"
        self._capacity = model.states.rows(options)
        self._batch = max(1, options.batch)
        # What is read again has cells besides those that the hollow rows had.
        cells = slots * model.context + self._capacity * (1 + RIDERS)
        self._width = self._batch + RIDERS + self._capacity
        context = native.make_context(model.path, model.handle, options, cells, self._width, slots + self._capacity)
        super().__init__(model, options, context, snapshots=0, apart=False, most=self._width)
        self._rows: dict[int, _Node] = {}
        self._slots = [_Slot(slot, CHECKPOINT_BYTES // slots) for slot in range(slots)]
        self._free_seqs = set(range(slots, slots + self._capacity))
        self._unwanted = False

    @property
    def slots(self) -> int:
        return len(self._slots)

    @property
    def rollback(self) -> Rollback:
        return Rollback(trees=True, depth=UNBOUNDED)

    @property
    def mixes(self) -> bool:
        return False

    @property
    def _state_note(self) -> str:
        states = len(self._slots) + self._capacity
        return (
            f"{self._name} is recurrent: it drafts trees of at most {self._capacity} tokens, for which memory holds "
            f"{states} states of {self._state_mib:.1f} MiB"
        )

    def extend(self, slot: int, tokens: Sequence[int]) -> None:
        state, count = self._slot(slot), len(tokens)
        if count:
            self._check_tokens(tokens)
        self._forget_rows(slot)
        if count:
            length = len(state.tokens)
            self._check_length(length + count)
            self._all_or_nothing([Chunk(slot, tokens)], [], 0)

    def forward(self, rows: Sequence[Row], chunks: Sequence[Chunk] = ()) -> Logits:
        width = len(rows) + sum(len(chunk.tokens) for chunk in chunks)
        if width > self._batch:
            raise ValueError(f"{width} rows are more than the batch of {self._batch}")
        if len(self._rows) + len(rows) > self._capacity:
            raise ContextError(f"{len(self._rows) + len(rows)} rows do not fit: there is room for {self._capacity}")
        grown: dict[int, int] = {}
        for at, chunk in chunks:
            state = self._slot(at)
            if state.rows or at in grown:
                raise ValueError(f"slot {at} cannot take a piece: it has rows or another one")
            self._check_tokens(chunk)
            self._check_length(len(state.tokens) + len(chunk))
            grown[at] = len(chunk)
        new: dict[int, _Node] = {}
        for row, at, token, above in rows:
            state = self._slot(at)
            if row < 0 or row in self._rows or row in new:
                raise ValueError(f"row {row} is negative or in use")
            self._check_tokens((token,))
            parent = None if above == ROOT else self._rows.get(above) or new.get(above)
            if above != ROOT and (parent is None or parent.slot is not state):
                raise ValueError(f"row {row} of slot {at} has no parent {above} there")
            pos = parent.pos + 1 if parent is not None else len(state.tokens) + grown.get(at, 0)
            self._check_length(pos + 1)
            new[row] = _Node(row, state, token, parent, pos)
        if not width:
            return self._logits[:0]
        self._unwanted = False
        return self._all_or_nothing(chunks, list(new.values()), len(rows))

    def interrupt(self) -> None:
        self._unwanted = True  # a decode runs to its end, and no further one begins

    def commit(self, slot: int, path: Sequence[int], rest: Collection[int] = ()) -> None:
        state = self._slot(slot)
        nodes: list[_Node] = []
        for row in path:
            node = state.rows.get(row)
            if node is None or node.parent is not (nodes[-1] if nodes else None):
                raise ValueError(f"row {row} does not continue the path in slot {slot}")
            nodes.append(node)
        end = nodes[-1] if nodes else None
        kept: dict[int, _Node] = {}
        for row in rest:
            if row not in state.rows:
                raise ValueError(f"slot {slot} has no row {row}")
            kept[row] = state.rows[row]
        for node in kept.values():
            if node.parent is not end and (node.parent is None or kept.get(node.parent.id) is not node.parent):
                raise ValueError(f"the rows to keep have {node.id} without its parent")
        state.tokens += [node.token for node in nodes]
        deepest = next((node for node in reversed(nodes) if node.seq is not None), None)
        if deepest is not None and deepest.seq is not None:
            # Its state is that of the committed tokens now, and the sequence of those before becomes free.
            state.seq, deepest.seq = deepest.seq, state.seq
            state.read, state.stale = deepest.pos + 1, False
        for row, node in state.rows.items():
            if row not in kept:
                del self._rows[row]
                self._release(node)
        state.rows = kept
        for node in kept.values():
            if node.parent is end:
                node.parent = None

    def _slot(self, slot: int) -> _Slot:
        if not 0 <= slot < len(self._slots):
            raise ValueError(f"there is no slot {slot}")
        return self._slots[slot]

    def _forget_rows(self, slot: int) -> None:
        self.commit(slot, ())

    def _lose(self) -> None:
        for node in self._rows.values():
            self._release(node)
        for state in self._slots:
            state.stale = True

    def _release(self, node: _Node) -> None:
        if node.seq is not None:
            _seq_rm(self._memory, node.seq, -1, -1)
            self._free_seqs.add(node.seq)
            node.seq = None

    def _all_or_nothing(self, chunks: Sequence[Chunk], new: Sequence[_Node], count: int) -> Logits:
        lengths = {chunk.slot: len(self._slots[chunk.slot].tokens) for chunk in chunks}
        try:
            for at, tokens in chunks:
                self._read_piece(at, tokens)
            for state in {node.slot for node in new}:
                prompted = state.prompted
                self._prepare(state)
                if prompted:
                    self._catch_up(state)  # or it would be read again for each row that hangs from there
            logits = self._logits[:0]
            for lines in _waves(new):
                left = list(lines)
                while left:
                    logits = self._run(left, count)
        except BaseException:
            for node in new:
                self._release(node)
            for at, length in lengths.items():
                self._slots[at].cut(length)
                self._go_back(self._slots[at])
            raise
        for node in new:
            self._rows[node.id] = node.slot.rows[node.id] = node
        return logits

    def _run(self, lines: list[_Line], count: int) -> Logits:
        """Decode lines none of which hangs from another, as many as one decode holds, and take them from the list."""
        if self._unwanted:
            raise InterruptedForwardError
        tokens: list[int] = []
        places: list[int] = []
        owners: list[Sequence[int]] = []
        quiet: list[int] = []
        wanted: list[int] = []
        # Of a model without cells only neighbouring sequences share a part of a decode. So they ascend.
        for seq in sorted(self._free_seqs)[: len(lines)]:
            line = lines[0]
            source, start, again = self._above(line.nodes[0])
            end = line.nodes[-1].pos + 1
            if len(tokens) + end - start > self._width:
                break
            del lines[0]
            self._free_seqs.discard(seq)
            line.nodes[-1].seq = seq
            if start:
                _seq_cp(self._memory, source, seq, 0, start)
            quiet += range(len(tokens), len(tokens) + len(again))
            tokens += again + [node.token for node in line.nodes]
            places += range(start, end)
            owners += [(seq,)] * (end - start)
            wanted += line.places
        self._decode(tokens, places, owners, quiet)
        whole = len(wanted) == count and wanted == list(range(count))
        return self._take_logits(len(wanted), None if whole else wanted, count)

    def _above(self, node: _Node) -> tuple[int, int, list[int]]:
        """The nearest state above a row: its sequence, how many tokens that has seen, and those that it lacks."""
        again: list[int] = []
        at = node.parent
        while at is not None:
            if at.seq is not None:
                return at.seq, at.pos + 1, again[::-1]
            again.append(at.token)
            at = at.parent
        state = node.slot
        return state.seq, state.read, state.tokens[state.read :] + again[::-1]


def _waves(new: Sequence[_Node]) -> Iterator[Sequence[_Line]]:
    """Divide the rows of a call into lines, and those into decodes: each line comes after the one it hangs from."""
    children = Counter(node.parent for node in new)
    lines: list[_Line] = []
    waves: list[int] = []
    line_of: dict[_Node | None, int] = {}
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
