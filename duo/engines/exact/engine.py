"""An engine that keeps every pass within one class of widths, so that the same text gets the same bits.

The last bits of a row's logits depend on how many rows share its pass, and on how the tokens before it were read.
`duo.engines.exact.search` finds the widths that give the same bits. This wrapper adds padding rows to narrow passes,
divides wide ones, and reads prompts in a way that depends on the prompt alone. By induction every key, value and logit
is a function of the slot's tokens: neither other slots nor the number of guesses change it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from duo.engines import checks
from duo.engines.base import ROOT, UNBOUNDED, Chunk, Engine, Logits, Rollback, Row
from duo.engines.exact.widths import WidthClass
from duo.engines.slot_copy import SlotCopy
from duo.errors import ContextError


class _Slot:
    """What is known of a slot beside the tokens that the inner engine holds."""

    __slots__ = ("pending", "prompt_tokens", "rows")

    def __init__(self) -> None:
        self.pending: list[int] = []
        """Tokens of a prompt that are not read yet, since more may follow."""
        self.prompt_tokens = 0
        """How many of the first tokens were read as whole chunks of a prompt."""
        self.rows: list[int] = []
        """Ids of live rows. The inner engine has them as committed tokens already."""


class ExactEngine:
    """Implements `duo.engines.Engine` over an engine whose slots have their own memory and drop any token.

    The rows of a slot are one chain. cost: seconds of a pass by its rows, to choose between padding and dividing.
    """

    mixes = False

    def __init__(self, engine: Engine, widths: WidthClass, cost: Callable[[int], float] | None = None) -> None:
        self._engine = engine
        self.name, self.runtime, self.note = engine.name, engine.runtime, engine.note
        self.vocabulary, self.sampling = engine.vocabulary, engine.sampling
        self.context = engine.context - widths.round_up(1) + 1  # the padding of a lone row lies in the context too
        self.slots, self.batch, self.capacity = engine.slots, engine.batch, engine.capacity
        self.neighbours, self.spacing = engine.neighbours, engine.spacing
        self.widths = widths
        self.rollback = Rollback(trees=False, depth=widths.widest - 1)
        self._cost = cost or (lambda rows: 2.0 + rows)
        self._chunk = min(widths.chunk, engine.batch)
        self._slots = [_Slot() for _ in range(engine.slots)]

    @property
    def inner(self) -> Engine:
        """The engine that computes."""
        return self._engine

    def length(self, slot: int) -> int:
        return self._base(slot) + len(self._slots[slot].pending)

    def extend(self, slot: int, tokens: Sequence[int]) -> None:
        self.commit(slot, ())
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
            for slot, tokens, last in chunks:
                self._slots[slot].pending += tokens
                self._read(slot, whole=not last)
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
        if self.widths.covers_prompts:
            return min(length, self.length(slot))
        return min(length, state.prompt_tokens) // self._chunk * self._chunk

    def truncate(self, slot: int, length: int) -> int:
        checks.check_cut(slot, self.length(slot), length)
        self.commit(slot, ())
        left = self.restorable(slot, length)
        self._restore(slot, left)
        return left

    def share(self, source: int, target: int, length: int) -> int:
        if source == target:
            return self.truncate(target, length)
        checks.check_share(source, self.length(source), length)
        self.commit(target, ())
        count = min(self.restorable(source, length), self._base(source))
        count = self._engine.share(source, target, count)
        state = self._slots[target]
        state.pending, state.prompt_tokens = [], min(count, self._slots[source].prompt_tokens)
        left = self.restorable(target, count)
        self._restore(target, left)
        return left

    @property
    def unsavable(self) -> str:
        return self._engine.unsavable

    @property
    def layout(self) -> str:
        return f"{self._engine.layout}, the same bits in {self.widths}"

    def copy_bytes(self, slot: int) -> int:
        return self._engine.copy_bytes(slot)

    def save(self, slot: int) -> SlotCopy:
        # Tokens that are not read yet are left out.
        self.commit(slot, ())
        copy, prompt = self._engine.save(slot), self._slots[slot].prompt_tokens
        lengths = None if self.widths.covers_prompts else range(0, prompt + 1, self._chunk)
        return copy._replace(notes={**copy.notes, "exact": [list(self.widths), prompt]}, lengths=lengths)

    def restore(self, slot: int, copy: SlotCopy, tokens: Sequence[int]) -> int:
        self.truncate(slot, 0)
        widths, prompt = copy.notes.get("exact", (None, None))
        if widths != list(self.widths) or not isinstance(prompt, int) or not 0 <= prompt <= copy.length:
            raise ContextError("this copy of a slot was computed in other passes, and --exact is on")
        count = self._engine.restore(slot, copy, tokens)
        self._slots[slot].prompt_tokens = min(prompt, count)
        return count

    def close(self) -> None:
        self._engine.close()

    def _base(self, slot: int) -> int:
        """Committed tokens that the inner engine holds."""
        return self._engine.length(slot) - len(self._slots[slot].rows)

    def _restore(self, slot: int, length: int, pending: Sequence[int] = ()) -> None:
        """Cut the slot to `length` tokens. pending: sets the tokens at its end that are not read yet."""
        state, inner_length = self._slots[slot], self._engine.length(slot)
        if pending:
            state.pending = list(pending)
        read = min(inner_length, length - len(pending))
        state.pending = state.pending[: length - read]
        # In any case: a pass that failed half way may have left rows there.
        self._engine.truncate(slot, read)
        state.prompt_tokens = min(state.prompt_tokens, read)

    def _chains(self, rows: Sequence[Row], chunks: Sequence[Chunk]) -> dict[int, list[int]]:
        """Indices of each slot's rows. Raises ValueError if they are not one chain."""
        chains: dict[int, list[int]] = {}
        for index, row in enumerate(rows):
            chain = chains.setdefault(row.slot, [])
            if self._slots[row.slot].rows:
                raise ValueError(f"slot {row.slot} has rows: commit some or none of them first")
            if row.parent != (rows[chain[-1]].id if chain else ROOT):
                raise ValueError(f"row {row.id} of slot {row.slot} hangs from {row.parent}: rows must be one chain")
            chain.append(index)
        for slot, _, _ in chunks:
            if self._slots[slot].rows:
                raise ValueError(f"slot {slot} cannot take a chunk: it has rows")
        return chains

    def _read(self, slot: int, whole: bool) -> None:
        """Read the pending tokens of a prompt, in chunks that always begin at the same positions. whole: only whole
        chunks."""
        state, engine = self._slots[slot], self._engine
        while state.pending:
            length = engine.length(slot)
            count = self._chunk - length % self._chunk
            if count > len(state.pending):
                if whole:
                    return
                count = len(state.pending)
            tokens = state.pending[:count]
            if self.widths.covers_prompts and count not in self.widths:
                self._read_padded(slot, tokens)
            else:
                engine.forward((), [Chunk(slot, tokens)])
            if count == self._chunk and state.prompt_tokens == length:
                state.prompt_tokens = length + count
            del state.pending[:count]

    def _read_padded(self, slot: int, tokens: Sequence[int]) -> None:
        """Read a chunk whose width is not in the class: as a chain of rows, with padding rows behind it."""
        count = len(tokens)
        padded = [*tokens, *([tokens[-1]] * (self.widths.round_up(count) - count))]
        chain = [Row(i, slot, token, i - 1 if i else ROOT, i >= count) for i, token in enumerate(padded)]
        self._engine.forward(chain)
        self._engine.commit(slot, range(count))

    def _pass(
        self, chains: Mapping[int, list[int]], rows: Sequence[Row], logits: Logits | None
    ) -> tuple[dict[int, list[int]], Logits]:
        """Run the beginning of each chain, in as few passes as the class allows. Returns the rest of the chains, and
        logits with the rows of these passes filled in."""
        widest, engine = self.widths.widest, self._engine
        beginnings = {slot: chain[:widest] for slot, chain in chains.items()}
        lengths = {slot: len(chain) for slot, chain in beginnings.items()}
        free = min(engine.context - engine.length(slot) for slot in chains)
        for group in groups(lengths, self.widths, self._cost, free):
            padded: list[Row] = []
            places: list[tuple[int, int, int]] = []
            for slot, width in group.items():
                begin, chain = len(padded), beginnings[slot]
                tokens = [rows[index].token for index in chain]
                tokens += tokens[-1:] * (width - len(chain))
                places.append((slot, begin, len(chain)))
                for i, token in enumerate(tokens):
                    padded.append(Row(begin + i, slot, token, begin + i - 1 if i else ROOT, i >= len(chain)))
            found = engine.forward(padded)
            whole = logits is None and len(places) == 1 and places[0][2] == len(rows)
            if whole:
                logits = found[: len(rows)]  # no copy: with a large vocabulary it takes long
            elif logits is None:
                logits = np.empty((len(rows), found.shape[1]), dtype=np.float32)
            for slot, begin, count in places:
                if not whole:
                    logits[beginnings[slot]] = found[begin : begin + count]
                engine.commit(slot, range(begin, begin + count))
        rest = {slot: chain[widest:] for slot, chain in chains.items()}
        assert logits is not None
        return {slot: chain for slot, chain in rest.items() if chain}, logits


def groups(
    rows: Mapping[int, int], widths: WidthClass, cost: Callable[[int], float], free: int = UNBOUNDED
) -> list[dict[int, int]]:
    """Which slots share a pass, and how many rows each has in it, padding included.

    All slots of a pass have equally many rows: llama.cpp divides other passes, and the parts may leave the class.
    Either all slots are padded to the longest, or only slots of the same length share a pass, whichever is cheaper.
    rows: of each slot. free: tokens that fit into the context of every slot.
    """
    padded = {slot: widths.round_up(count) for slot, count in sorted(rows.items())}
    lengths = sorted(set(padded.values()))
    equal = [{slot: width for slot, width in padded.items() if width == length} for length in lengths]
    ways = [[group for slots in equal for group in _divided(slots, widths)]]
    if len(lengths) > 1 and lengths[-1] <= free:
        ways.append(_divided(dict.fromkeys(padded, lengths[-1]), widths))
    return min(ways, key=lambda way: sum(cost(sum(group.values())) for group in way))


def _divided(rows: Mapping[int, int], widths: WidthClass) -> list[dict[int, int]]:
    """Divide slots of equally many rows so that no pass is wider than the class."""
    slots, width = list(rows), next(iter(rows.values()))
    each = max(1, widths.widest // width)
    return [dict.fromkeys(slots[begin : begin + each], width) for begin in range(0, len(slots), each)]
