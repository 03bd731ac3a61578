"""Whether what a slot held is copied, by how long copies have taken."""

from __future__ import annotations

from typing import Any

import pytest

from lead.decode import swap
from lead.decode.swap import MIN_TOKENS, Swap
from tests.support.loop import MODEL
from tests.support.slotted import SlottedEngine


class Clock:
    """It goes on by `step` with every look at it."""

    now = step = 0.0

    def perf_counter(self) -> float:
        self.now += self.step
        return self.now


TOKENS = [4] * MIN_TOKENS


def full(monkeypatch: pytest.MonkeyPatch) -> tuple[Swap, Any, Clock]:
    """A slot that holds `TOKENS`, which take 1 ms each to read, its engine, and the clock of copies."""
    engine: Any = SlottedEngine(MODEL, 1)
    clock = Clock()
    monkeypatch.setattr(swap, "time", clock)
    monkeypatch.setattr("lead.decode.swap.memory.available", lambda: None)
    for begin in range(0, MIN_TOKENS, engine.batch):
        engine.extend(0, TOKENS[begin : begin + engine.batch])
    kept = Swap(engine, 1 << 30)
    kept.token_seconds = 0.001
    return kept, engine, clock


@pytest.mark.parametrize("slower", [1.5, 10.0])
def test_one_slow_copy_does_not_end_copies_for_ever(slower: float, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, engine, clock = full(monkeypatch)
    clock.step = slower * MIN_TOKENS * kept.token_seconds / 2  # there and back, it is so much slower than reading
    kept.keep(0, TOKENS)
    assert engine.copies == 1
    clock.step = 0.0
    kept.cache.clear()
    tries = 0
    while engine.copies == 1:
        kept.keep(0, TOKENS)
        tries += 1
        assert tries < 100, "it is never tried again"
    assert tries > 3, "a copy that is too slow is not made at once again"
    kept.cache.clear()
    kept.keep(0, TOKENS)
    assert engine.copies == 3, "it was fast this time"


@pytest.mark.parametrize("asked", [False, True])
def test_copies_that_nobody_asks_for_become_rare(asked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, engine, clock = full(monkeypatch)
    clock.step = 0.2 * MIN_TOKENS * kept.token_seconds  # a copy is five times as fast as reading
    for _ in range(200):
        kept.keep(0, TOKENS)
        if asked and (found := kept.find(TOKENS, MIN_TOKENS, 0)) is not None:
            kept.bring_back(0, found)
        kept.cache.clear()
    assert engine.copies == 200 if asked else engine.copies < 60
