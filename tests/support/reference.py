"""Plays random calls on a transformers engine, beside books of what it must hold."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import transformers

from duo.engines import EngineOptions
from duo.engines.base import ROOT, Chunk, Row
from duo.engines.slot_copy import SlotCopy
from duo.engines.transformers.engine import TransformersEngine


class Reference:
    """The same weights in a plain model of the library. It computes every sequence from scratch."""

    def __init__(self, folder: str) -> None:
        maker: Any = transformers.AutoModelForCausalLM
        self.model: Any = maker.from_pretrained(folder).eval()
        self.known: dict[tuple[int, ...], np.ndarray[Any, Any]] = {}

    def logits(self, tokens: list[int]) -> Any:
        """Logits after the last token."""
        key = tuple(tokens)
        if key not in self.known:
            with torch.inference_mode():
                output = self.model(input_ids=torch.tensor([tokens]), use_cache=False)
            self.known[key] = output.logits[0, -1].numpy()
        return self.known[key]


def engine_of(folder: str, **options: Any) -> TransformersEngine:
    return TransformersEngine(folder, EngineOptions(**options), lambda share: None)


def places_used(engine: TransformersEngine) -> int:
    """Places of the arena that hold committed tokens or live rows, over all slots."""
    return sum(book.used for book in engine.cache.books)


class Mirror:
    """What the engine must hold, and a check of every logit that it returns."""

    def __init__(self, engine: TransformersEngine, reference: Reference, slots: int, seed: int) -> None:
        self.engine, self.reference, self.random = engine, reference, random.Random(seed)
        self.size = engine.vocabulary.size
        self.committed: list[list[int]] = [[] for _ in range(slots)]
        self.rows: dict[int, Row] = {}
        self.saved: list[tuple[SlotCopy, list[int]]] = []
        """Copies of slots, and what these held."""
        self.next_id = 0

    def path(self, id: int) -> list[int]:
        """Ids from the committed sequence down to the row."""
        ids: list[int] = []
        while id != ROOT:
            ids.insert(0, id)
            id = self.rows[id].parent
        return ids

    def tokens(self, id: int) -> list[int]:
        return self.committed[self.rows[id].slot] + [self.rows[above].token for above in self.path(id)]

    def of(self, slot: int) -> list[int]:
        return [id for id, row in self.rows.items() if row.slot == slot]

    def some(self, count: int) -> list[int]:
        return [self.random.randrange(self.size) for _ in range(count)]

    def extend(self, slot: int, count: int) -> None:
        tokens = self.some(count)
        self.engine.extend(slot, tokens)
        for id in self.of(slot):
            del self.rows[id]
        self.committed[slot] += tokens

    def forward(self, slots: list[int], count: int, chunks: Mapping[int, int] | None = None) -> None:
        """chunks: how many tokens of a prompt each slot reads."""
        read = [Chunk(slot, self.some(length)) for slot, length in (chunks or {}).items()]
        for slot, tokens, _ in read:
            self.committed[slot] += tokens
        made = []
        for _ in range(count):
            slot = self.random.choice(slots)
            parent = self.random.choice([ROOT, *self.of(slot), *self.of(slot)[-2:]])
            row = Row(self.next_id, slot, self.random.randrange(self.size), parent)
            self.next_id += self.random.choice([1, 1, 7])
            self.rows[row.id] = row
            made.append(row)
        logits = self.engine.forward(made, read)
        assert logits.shape == (count, self.size) and logits.dtype == np.float32
        for row, got in zip(made, logits, strict=True):
            wanted = self.reference.logits(self.tokens(row.id))
            np.testing.assert_allclose(got, wanted, atol=1e-4 * max(1.0, np.abs(wanted).max() / 2))

    def commit(self, slot: int, rest_share: float) -> None:
        mine = self.of(slot)
        path = self.path(self.random.choice(mine)) if mine else []
        path = path[: self.random.randint(0, len(path))]
        rest: list[int] = []
        for id in mine:  # in the order of making, so parents come first
            parent = self.rows[id].parent
            hangs = parent in rest or (parent == (path[-1] if path else ROOT) and id not in path)
            if hangs and self.random.random() < rest_share:
                rest.append(id)
        self.engine.commit(slot, path, rest)
        self.committed[slot] += [self.rows[id].token for id in path]
        for id in rest:
            if path and self.rows[id].parent == path[-1]:
                self.rows[id] = self.rows[id]._replace(parent=ROOT)
        for id in mine:
            if id not in rest:
                del self.rows[id]

    def truncate(self, slot: int, length: int) -> None:
        promised = self.engine.restorable(slot, length)
        left = self.engine.truncate(slot, length)
        assert left == promised <= length
        del self.committed[slot][left:]
        for id in self.of(slot):
            del self.rows[id]

    def share(self, source: int, target: int, length: int) -> None:
        promised = self.engine.restorable(source, length)
        left = self.engine.share(source, target, length)
        assert left == promised <= length
        self.committed[target] = self.committed[source][:left]
        if source == target:
            assert self.engine.length(source) == left
        for id in self.of(target):
            del self.rows[id]

    def copy(self, source: int, target: int) -> None:
        """Save a slot, and restore another one from this copy or from an earlier one."""
        copy = self.engine.save(source)
        for id in self.of(source):
            del self.rows[id]
        self.saved.append((copy, self.committed[source][: copy.length]))
        copy, tokens = self.random.choice(self.saved[-3:])
        assert self.engine.restore(target, copy, tokens) == len(tokens) == copy.length
        length = self.random.randint(0, len(tokens))
        assert self.engine.restorable(target, length) == copy.restorable(length)
        self.committed[target] = list(tokens)
        for id in self.of(target):
            del self.rows[id]

    def check(self) -> None:
        for slot, tokens in enumerate(self.committed):
            assert self.engine.length(slot) == len(tokens)
        assert places_used(self.engine) == len(self.rows) + sum(map(len, self.committed))


def interleave(folder: str, reference: Reference, seed: int, apart: bool | None) -> None:
    slots, context, capacity, batch = 3, 32, 24, 8
    engine = engine_of(folder, slots=slots, context=context, tree_rows=capacity, batch=batch)
    assert apart is None or len(engine.cache.books) == (slots if apart else 1)
    mirror = Mirror(engine, reference, slots, seed)
    dice = mirror.random
    for _ in range(60):
        slot = dice.randrange(slots)
        match dice.randrange(10):
            case 0:
                mirror.extend(slot, dice.randint(0, min(12, context - len(mirror.committed[slot]))))
            case 1:
                mirror.truncate(slot, dice.randint(0, len(mirror.committed[slot])))
            case 2:
                source = dice.randrange(slots)
                mirror.share(source, slot, dice.randint(0, len(mirror.committed[source])))
            case 3:
                mirror.copy(dice.randrange(slots), slot)
            case 4 | 5 | 6:
                mirror.commit(slot, dice.choice([0.0, 0.5, 1.0]))
            case _:
                deepest = [
                    len(mirror.committed[s]) + max((len(mirror.path(id)) for id in mirror.of(s)), default=0)
                    for s in range(slots)
                ]
                fitting = [s for s in range(slots) if deepest[s] + batch <= context]
                if fitting and len(mirror.rows) + batch <= capacity:
                    # As if for a full batch, so that later rows fit the context too.
                    count, chunks = dice.randint(1, batch), dict[int, int]()
                    for reader in fitting:
                        spare = batch - count - sum(chunks.values())
                        if spare and not mirror.of(reader) and dice.random() < 0.5:
                            chunks[reader] = dice.randint(1, spare)
                    mirror.forward(fitting, count, chunks)
        mirror.check()
    for slot in range(slots):
        engine.truncate(slot, 0)
    assert places_used(engine) == 0
