"""Plays random calls on an engine, keeps the plainest possible books, and checks the logits by them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from duo.engines import ROOT, Chunk, Engine, Row
from duo.engines.slot_copy import SlotCopy


class Truth:
    """Logits after a sequence of tokens. An engine without other rows reads it into an empty slot."""

    def __init__(self, engine: Engine, tolerance: float) -> None:
        self.engine = engine
        self.tolerance = tolerance
        self.known: dict[tuple[int, ...], NDArray[np.float32]] = {}

    def __call__(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        key = tuple(tokens)
        if key not in self.known:
            self.engine.truncate(0, 0)
            self.engine.extend(0, key[:-1])
            self.known[key] = self.engine.forward([Row(0, 0, key[-1])])[0].copy()
        return self.known[key]

    def check(self, logits: NDArray[np.float32], tokens: Sequence[int]) -> None:
        same(logits, self(tokens), self.tolerance)


def same(logits: NDArray[np.float32], expected: NDArray[np.float32], tolerance: float) -> None:
    np.testing.assert_allclose(logits, expected, rtol=0, atol=tolerance)
    # The pick is the same too, unless the two best are closer to each other than that.
    assert expected[logits.argmax()] > expected.max() - 2 * tolerance


class Mirror:
    """Plays calls and keeps books. `check` runs between calls."""

    def __init__(self, engine: Engine, truth: Truth, seed: int, check: Callable[[], None] = lambda: None) -> None:
        self.engine = engine
        self.truth = truth
        self.size = engine.vocabulary.size
        self.random = random.Random(seed)
        self.check = check
        self.committed: list[list[int]] = [[] for _ in range(engine.slots)]
        self.rows: list[dict[int, tuple[int, int]]] = [{} for _ in range(engine.slots)]
        self.saved: list[tuple[SlotCopy, list[int]]] = []
        """Copies of slots, and what these held."""
        self.next = 0

    def path(self, slot: int, row: int) -> list[int]:
        above: list[int] = []
        while row != ROOT:
            token, row = self.rows[slot][row]
            above.append(token)
        return self.committed[slot] + above[::-1]

    def some(self, count: int) -> list[int]:
        return [self.random.randrange(self.size) for _ in range(count)]

    def add(self, slot: int, parent: int) -> Row:
        row = Row(self.next, slot, self.random.randrange(self.size), parent)
        self.rows[slot][self.next] = (row.token, parent)
        self.next += self.random.choice((1, 1, 5))
        return row

    def run(self, rows: Sequence[Row], read: Sequence[Chunk], checks: int) -> None:
        logits = self.engine.forward(rows, read)
        assert logits.shape == (len(rows), self.size)
        assert logits.dtype == np.float32
        for i in self.random.sample(range(len(rows)), min(checks, len(rows))):
            self.truth.check(logits[i], self.path(rows[i].slot, rows[i].id))

    def chunks(self, lengths: Mapping[int, int]) -> list[Chunk]:
        read = [Chunk(slot, self.some(length)) for slot, length in lengths.items()]
        for slot, tokens, _ in read:
            self.committed[slot] += tokens
        return read

    def commit(self, slot: int, path: Sequence[int]) -> None:
        self.committed[slot] += [self.rows[slot][row][0] for row in path]
        assert self.engine.length(slot) == len(self.committed[slot])

    def extend(self, slot: int, count: int) -> None:
        tokens = self.some(count)
        self.engine.extend(slot, tokens)
        self.committed[slot] += tokens
        self.rows[slot] = {}

    def truncate(self, slot: int, length: int) -> None:
        left = self.engine.restorable(slot, length)
        assert self.engine.truncate(slot, length) == left <= length
        del self.committed[slot][left:]
        self.rows[slot] = {}

    def share(self, source: int, target: int, length: int) -> None:
        left = self.engine.restorable(source, length)
        assert self.engine.share(source, target, length) == left <= length
        self.committed[target] = self.committed[source][:left]
        self.rows[target] = {}

    def copy(self, source: int, target: int) -> None:
        """Save a slot, and restore another one from this copy or from an earlier one."""
        copy = self.engine.save(source)
        self.rows[source] = {}
        self.saved.append((copy, self.committed[source][: copy.length]))
        copy, tokens = self.random.choice(self.saved[-3:])
        assert self.engine.restore(target, copy, tokens) == len(tokens) == copy.length
        for length in {0, len(tokens), self.random.randint(0, len(tokens))}:
            assert self.engine.restorable(target, length) == copy.restorable(length)
        self.committed[target] = list(tokens)
        self.rows[target] = {}

    def other(self, slot: int, action: float, context: int) -> None:
        """Play a call that is neither `forward` nor `commit`."""
        if action < 0.15 and not self.engine.unsavable:
            self.copy(self.random.randrange(len(self.rows)), slot)
        elif action < 0.25:
            source = self.random.randrange(len(self.rows))
            self.share(source, slot, self.random.randint(0, len(self.committed[source])))
        elif action < 0.6:
            self.extend(slot, min(self.random.randrange(50), context - len(self.committed[slot])))
        else:
            length = len(self.committed[slot])
            self.truncate(slot, self.random.choice((0, self.random.randint(0, length), max(0, length - 3))))
        assert [self.engine.length(s) for s in range(len(self.rows))] == [len(tokens) for tokens in self.committed]


class TreeMirror(Mirror):
    """Rows that branch."""

    def forward(
        self, count: int, slots: Sequence[int], checks: int = 2, chunks: Mapping[int, int] | None = None
    ) -> None:
        """chunks: how many tokens of a prompt each slot reads."""
        read = self.chunks(chunks or {})
        rows = []
        for _ in range(count):
            slot = self.random.choice(slots)
            # Often the newest row, so that trees grow deep as well as wide.
            newest = list(self.rows[slot])[-1:]
            parent = self.random.choice(newest if newest and self.random.random() < 0.5 else [ROOT, *self.rows[slot]])
            rows.append(self.add(slot, parent))
        self.run(rows, read, checks)

    def keep(self, slot: int) -> None:
        rows = self.rows[slot]
        path: list[int] = []
        end = ROOT
        while self.random.random() < 0.7:
            below = [row for row, (_, parent) in rows.items() if parent == end]
            if not below:
                break
            end = self.random.choice(below)
            path.append(end)
        rest: list[int] = []
        if self.random.random() < 0.6:
            share = self.random.choice((0.5, 0.9, 1.0))
            for row, (_, parent) in rows.items():
                if (parent == end or parent in rest) and self.random.random() < share:
                    rest.append(row)
        shuffled = self.random.sample(rest, len(rest))
        self.engine.commit(slot, path, shuffled if self.random.random() < 0.5 else frozenset(shuffled))
        self.commit(slot, path)
        kept = {row: rows[row] for row in rest}
        self.rows[slot] = {row: (token, ROOT if parent == end else parent) for row, (token, parent) in kept.items()}

    def play(self, rounds: int, context: int, capacity: int, width: int) -> None:
        slots = range(len(self.committed))
        for _ in range(rounds):
            self.check()
            slot = self.random.choice(slots)
            live = sum(map(len, self.rows))
            action = self.random.random()
            if action < 0.5:
                # Leave out slots whose deepest possible path does not fit.
                able = [s for s in slots if len(self.committed[s]) + len(self.rows[s]) + width <= context]
                count = min(self.random.choice((1, 2, 3, width)), capacity - live)
                if able and count > 0:
                    # New rows and chunks of a slot are at most `width` tokens deep.
                    readers = [s for s in able if not self.rows[s] and self.random.random() < 0.3]
                    chunks = {s: self.random.randint(1, width - count) for s in readers} if count < width else {}
                    self.forward(count, able, chunks=chunks)
            elif action < 0.85:
                self.keep(slot)
            else:
                self.other(slot, (action - 0.85) / 0.15, context)


class ChainMirror(Mirror):
    """Rows of a slot are one chain in one pass. Some of them are committed before the next."""

    def forward(self, slots: Sequence[int], chunks: Mapping[int, int]) -> None:
        read = self.chunks(chunks)
        longest = min(6, 1 + self.engine.rollback.depth)
        chains: list[list[Row]] = []
        for slot in slots:
            chains.append([])
            for _ in range(self.random.choice((1, 1, 2, 3, longest))):
                chains[-1].append(self.add(slot, chains[-1][-1].id if chains[-1] else ROOT))
        rows = [row for chain in chains for row in chain]
        if self.random.random() < 0.3:
            # The rows of a slot need not lie side by side.
            rows = [row for depth in range(longest) for chain in chains for row in chain[depth : depth + 1]]
        self.run(rows, read, checks=2)

    def keep(self, slot: int) -> None:
        rows = list(self.rows[slot])
        min_kept = max(0, len(rows) - self.engine.rollback.depth)
        path = rows[: max(min_kept, self.random.choice((0, 1, 1, 2, 3, 6)))]
        self.engine.commit(slot, path)
        self.commit(slot, path)
        self.rows[slot] = {}

    def play(self, rounds: int, context: int) -> None:
        slots = range(len(self.committed))
        for _ in range(rounds):
            self.check()
            action = self.random.random()
            able = [s for s in slots if not self.rows[s] and len(self.committed[s]) + 40 <= context]
            if action < 0.6 and able:
                some = self.random.sample(able, self.random.randrange(1, len(able) + 1))
                self.forward(some, {s: self.random.randrange(1, 20) for s in able if self.random.random() < 0.2})
                if self.random.random() < 0.8:
                    for slot in self.random.sample(some, len(some)):
                        self.keep(slot)
            elif action < 0.75:
                self.keep(self.random.choice(slots))
            else:
                self.other(self.random.choice(slots), self.random.random(), context)
