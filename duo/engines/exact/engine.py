"""The same bits for the same text: an engine that keeps every pass within one class of widths.

A row's logits depend in their last bits on how many rows share its pass, and on how the tokens before it were read.
`duo.engines.exact.search` finds the widths that give the same bits. This wrapper keeps to them: it fills up narrow
passes, divides wide ones, and reads prompts in a way that depends on the prompt alone. By induction every key, value
and logit is then a function of the slot's tokens, whoever else is there and however many guesses were verified.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from duo.engines.base import ROOT, UNBOUNDED, Chunk, Engine, Logits, Rollback, Row, Vocabulary
from duo.engines.exact.widths import Widths


class _Slot:
    """`pending`: tokens of a prompt that are not read yet, because it is not known where they end. `prompted`: of the
    tokens that the engine holds, the first ones that were read as whole chunks of a prompt. `rows`: ids of live rows,
    which the engine below has as committed tokens already."""

    __slots__ = ("pending", "prompted", "rows")

    def __init__(self) -> None:
        self.pending: list[int] = []
        self.prompted = 0
        self.rows: list[int] = []


class Exact:
    """Implements `duo.engines.Engine` over one whose slots have memory of their own and drop any token.

    Rows of a slot are one chain. cost: seconds of a pass by its rows, to choose between filling up and dividing.
    """

    def __init__(self, engine: Engine, widths: Widths, cost: Callable[[int], float] | None = None) -> None:
        self._engine = engine
        self.widths = widths
        self._cost = cost or (lambda rows: 2.0 + rows)
        self._chunk = min(widths.chunk, engine.batch)
        self._slots = [_Slot() for _ in range(engine.slots)]

    @property
    def name(self) -> str:
        return self._engine.name

    @property
    def runtime(self) -> str:
        return self._engine.runtime

    @property
    def vocabulary(self) -> Vocabulary:
        return self._engine.vocabulary

    @property
    def context(self) -> int:
        # What a lone row is filled up with needs room as well.
        return self._engine.context - self.widths.filled(1) + 1

    @property
    def slots(self) -> int:
        return self._engine.slots

    @property
    def batch(self) -> int:
        return self._engine.batch

    @property
    def capacity(self) -> int:
        return self._engine.capacity

    @property
    def note(self) -> str:
        return self._engine.note

    @property
    def rollback(self) -> Rollback:
        return Rollback(trees=False, depth=self.widths.most - 1)

    @property
    def mixes(self) -> bool:
        return False

    @property
    def neighbours(self) -> bool:
        return self._engine.neighbours

    @property
    def spacing(self) -> int:
        return self._engine.spacing

    def length(self, slot: int) -> int:
        return self._base(slot) + len(self._slots[slot].pending)

    def extend(self, slot: int, tokens: Sequence[int]) -> None:
        self._forget(slot)
        before = self.length(slot)
        try:
            for begin in range(0, len(tokens), self.batch):
                self.forward((), [Chunk(slot, tokens[begin : begin + self.batch])])
        except BaseException:
            self._restore(slot, before)
            raise

    def forward(self, rows: Sequence[Row], chunks: Sequence[Chunk] = ()) -> Logits:
        chains = self._chains(rows, chunks)
        before = {slot: self.length(slot) for slot in {*chains, *(chunk.slot for chunk in chunks)}}
        pending = {slot: list(self._slots[slot].pending) for slot in before}
        logits: Logits | None = None
        try:
            for slot, tokens in chunks:
                self._slots[slot].pending += tokens
                self._read(slot, whole=True)
            for slot in chains:
                self._read(slot, whole=False)
            while chains:
                chains, logits = self._pass(chains, rows, logits)
        except BaseException:
            for slot, length in before.items():
                self._slots[slot].rows = []
                self._restore(slot, length, pending[slot])
            raise
        for row in rows:
            self._slots[row.slot].rows.append(row.id)
        return logits if logits is not None else np.empty((0, self.vocabulary.size), dtype=np.float32)

    def interrupt(self) -> None:
        self._engine.interrupt()

    def commit(self, slot: int, path: Sequence[int], rest: Collection[int] = ()) -> None:
        state = self._slots[slot]
        if list(path) != state.rows[: len(path)] or rest:
            raise ValueError(f"the path does not continue slot {slot}, whose rows are one chain")
        base = self._base(slot)
        dropped, state.rows = len(state.rows) - len(path), []
        if dropped:
            self._engine.truncate(slot, base + len(path))

    def restorable(self, slot: int, length: int) -> int:
        state = self._slots[slot]
        if self.widths.alike:
            return min(length, self.length(slot))
        return min(length, state.prompted) // self._chunk * self._chunk

    def truncate(self, slot: int, length: int) -> int:
        if not 0 <= length <= self.length(slot):
            raise ValueError(f"slot {slot} has {self.length(slot)} tokens, it cannot be cut to {length}")
        self._forget(slot)
        left = self.restorable(slot, length)
        self._restore(slot, left)
        return left

    def share(self, source: int, target: int, length: int) -> int:
        if source == target:
            return self.truncate(target, length)
        if not 0 <= length <= self.length(source):
            raise ValueError(f"slot {source} has {self.length(source)} tokens, the first {length} cannot be shared")
        self._forget(target)
        count = min(self.restorable(source, length), self._base(source))
        count = self._engine.share(source, target, count)
        state = self._slots[target]
        state.pending, state.prompted = [], min(count, self._slots[source].prompted)
        left = self.restorable(target, count)
        self._restore(target, left)
        return left

    def close(self) -> None:
        self._engine.close()

    def _base(self, slot: int) -> int:
        """Committed tokens that the engine below holds."""
        return self._engine.length(slot) - len(self._slots[slot].rows)

    def _forget(self, slot: int) -> None:
        self.commit(slot, ())

    def _restore(self, slot: int, length: int, pending: Sequence[int] = ()) -> None:
        """Cut the slot to so many tokens. `pending`: those at its end that had not been read; none: as they are now."""
        state, held = self._slots[slot], self._engine.length(slot)
        if pending:
            state.pending = list(pending)
        read = min(held, length - len(pending))
        state.pending = state.pending[: length - read]
        # In any case: a pass that failed half way may have left rows there.
        self._engine.truncate(slot, read)
        state.prompted = min(state.prompted, read)

    def _chains(self, rows: Sequence[Row], chunks: Sequence[Chunk]) -> dict[int, list[int]]:
        """Indices of each slot's rows. Raises ValueError where they are not one chain, as `Engine.forward` does."""
        chains: dict[int, list[int]] = {}
        for index, row in enumerate(rows):
            chain = chains.setdefault(row.slot, [])
            if self._slots[row.slot].rows:
                raise ValueError(f"slot {row.slot} has rows: keep some or none of them first")
            if row.parent != (rows[chain[-1]].id if chain else ROOT):
                raise ValueError(f"row {row.id} of slot {row.slot} hangs from {row.parent}: rows must be one chain")
            chain.append(index)
        for slot, _ in chunks:
            if self._slots[slot].rows:
                raise ValueError(f"slot {slot} cannot take a piece: it has rows")
        return chains

    def _read(self, slot: int, whole: bool) -> None:
        """Read what is pending of a prompt, in chunks at the same positions always. `whole`: whole chunks only."""
        state, engine = self._slots[slot], self._engine
        while state.pending:
            held = engine.length(slot)
            count = self._chunk - held % self._chunk
            if count > len(state.pending):
                if whole:
                    return
                count = len(state.pending)
            tokens = state.pending[:count]
            if self.widths.alike and count not in self.widths:
                self._read_filled(slot, tokens)
            else:
                engine.forward((), [Chunk(slot, tokens)])
            if count == self._chunk and state.prompted == held:
                state.prompted = held + count
            del state.pending[:count]

    def _read_filled(self, slot: int, tokens: Sequence[int]) -> None:
        """Read a chunk whose width is not in the class as a chain of rows, with others behind it."""
        count = len(tokens)
        filled = [*tokens, *([tokens[-1]] * (self.widths.filled(count) - count))]
        self._engine.forward([Row(i, slot, token, i - 1 if i else ROOT) for i, token in enumerate(filled)])
        self._engine.commit(slot, range(count))

    def _pass(
        self, chains: Mapping[int, list[int]], rows: Sequence[Row], logits: Logits | None
    ) -> tuple[dict[int, list[int]], Logits]:
        """Run the beginnings of all chains, in as few passes as the class allows. Returns what is left of them."""
        most, engine = self.widths.most, self._engine
        beginnings = {slot: chain[:most] for slot, chain in chains.items()}
        lengths = {slot: len(chain) for slot, chain in beginnings.items()}
        longest = min(engine.context - engine.length(slot) for slot in chains)
        for group in groups(lengths, self.widths, self._cost, longest):
            filled: list[Row] = []
            places: list[tuple[int, int, int]] = []
            for slot, width in group.items():
                begin, chain = len(filled), beginnings[slot]
                tokens = [rows[index].token for index in chain]
                tokens += tokens[-1:] * (width - len(chain))
                places.append((slot, begin, len(chain)))
                filled += [Row(begin + i, slot, token, begin + i - 1 if i else ROOT) for i, token in enumerate(tokens)]
            found = engine.forward(filled)
            whole = logits is None and len(places) == 1 and places[0][2] == len(rows)
            if whole:
                logits = found[: len(rows)]  # a large vocabulary takes long to copy
            elif logits is None:
                logits = np.empty((len(rows), found.shape[1]), dtype=np.float32)
            for slot, begin, count in places:
                if not whole:
                    logits[beginnings[slot]] = found[begin : begin + count]
                engine.commit(slot, range(begin, begin + count))
        left = {slot: chain[most:] for slot, chain in chains.items()}
        assert logits is not None
        return {slot: chain for slot, chain in left.items() if chain}, logits


def groups(
    rows: Mapping[int, int], widths: Widths, cost: Callable[[int], float], room: int = UNBOUNDED
) -> list[dict[int, int]]:
    """Which slots share a pass, and how many rows each has in it, filled up.

    All slots of a pass have equally many rows: llama.cpp divides others, and then the parts may leave the class. Either
    all are as long as the longest, or those of the same length go together, whichever is cheaper. room: rows that any
    slot has room for.
    """
    filled = {slot: widths.filled(count) for slot, count in sorted(rows.items())}
    lengths = sorted(set(filled.values()))
    alike = [{slot: width for slot, width in filled.items() if width == length} for length in lengths]
    ways = [[group for of in alike for group in _packed(of, widths)]]
    if len(lengths) > 1 and lengths[-1] <= room:
        ways.append(_packed(dict.fromkeys(filled, lengths[-1]), widths))
    return min(ways, key=lambda way: sum(cost(sum(group.values())) for group in way))


def _packed(rows: Mapping[int, int], widths: Widths) -> list[dict[int, int]]:
    """Divide slots of equally many rows so that no pass is wider than the class."""
    slots, width = list(rows), next(iter(rows.values()))
    each = max(1, widths.most // width)
    return [dict.fromkeys(slots[begin : begin + each], width) for begin in range(0, len(slots), each)]
