"""Timing an engine when it is loaded: within its contract, in little time, and remembered."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from duo.engines import Engine, Logits, measure
from duo.engines.base import TREES, Chunk, Rollback, Row
from duo.engines.replay import Checkpoints
from tests.support.fakes import FakeModel
from tests.support.slotted import CHAINS, FORWARD, REPLAY, SlottedEngine

SAVE, RESTORE = 0.3, 0.2


def cost(rows: int) -> float:
    """Seconds of a forward pass."""
    return 1.0 + 0.1 * (rows - 1)


class Timed(SlottedEngine):
    """An engine whose passes take time on a fake clock."""

    def __init__(self, slots: int, rollback: Rollback, late: bool = False) -> None:
        """late: it goes back before the next rows, and runs the kept rows beside those."""
        super().__init__(FakeModel(), slots, rollback, 0 if rollback.trees else 40)
        self.now = 0.0
        self._late = late
        self._again: dict[int, int] = {}
        """Rows of each slot that must run again."""
        self.chains: list[list[int]] = []
        """Rows of each slot in each timed pass."""
        self.lengths: set[int] = set()
        """Tokens of slot 0 in these passes."""

    def forward(self, rows: Sequence[Row], chunks: Sequence[Chunk] = ()) -> Logits:
        logits = super().forward(rows, chunks)
        counts = [sum(row.slot == slot for row in rows) for slot in range(self.slots)]
        assert all(len(self.parts[row.slot].path_of(row.id)) <= self.context for row in rows)
        self.chains.append([count for count in counts if count])
        self.lengths.add(self.length(0))
        again = [self._again.pop(slot, 0) for slot in {row.slot for row in rows}]
        self.now += cost(len(rows) + sum(again)) + RESTORE * len([rows for rows in again if rows])
        if self.rollback.replay:
            self.now += SAVE * sum(count > 1 for count in counts)
        return logits

    def commit(self, slot: int, path: Sequence[int], rest: Collection[int] = ()) -> None:
        dropped = self.dropped
        super().commit(slot, path, rest)
        if self.rollback.replay and self.dropped > dropped:
            if self._late:
                self._again[slot] = len(path)
            else:
                self.now += RESTORE + cost(len(path))

    def extend(self, slot: int, tokens: Sequence[int]) -> None:
        for first in range(0, len(tokens), self.batch):
            super().extend(slot, tokens[first : first + self.batch])

    def perf_counter(self) -> float:
        return self.now


def timed(monkeypatch: pytest.MonkeyPatch, slots: int, rollback: Rollback, late: bool = False) -> Timed:
    engine = Timed(slots, rollback, late)
    monkeypatch.setattr(measure, "time", engine)
    return engine


def test_what_verifies_trees_is_timed_in_one_chain_that_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = timed(monkeypatch, 2, TREES)
    seconds, checkpoints = measure.measure(cast(Engine, engine), 17)
    assert seconds == {width: pytest.approx(cost(width)) for width in (1, 2, 3, 4, 6, 8, 12, 16, 17)}
    assert checkpoints is None and engine.lengths == {measure.CONTEXT}
    assert engine.length(0) == engine.length(1) == 0


@pytest.mark.parametrize(
    ("rollback", "slots", "widths"),
    [
        (CHAINS, 1, (1, 2, 3, 4)),
        (CHAINS, 4, (1, 2, 3, 4, 6, 8, 12, 16)),
        (FORWARD, 1, (1,)),
        (FORWARD, 4, (1, 2, 3, 4)),
    ],
)
def test_what_verifies_chains_is_timed_within_them(
    monkeypatch: pytest.MonkeyPatch, rollback: Rollback, slots: int, widths: Sequence[int]
) -> None:
    """Wider passes have chains in several slots, as equal as possible."""
    engine = timed(monkeypatch, slots, rollback)
    seconds, checkpoints = measure.measure(cast(Engine, engine), 17)
    assert seconds == {width: pytest.approx(cost(width)) for width in widths} and checkpoints is None
    assert all(max(chains) - min(chains) <= 1 for chains in engine.chains if chains)
    assert min(engine.lengths - {0}, default=0) >= measure.CONTEXT - 40
    assert max(engine.lengths) <= measure.CONTEXT + measure.MAX_GROWTH + 1
    assert not any(engine.length(slot) for slot in range(slots))


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("slots", [1, 3])
def test_what_going_back_costs_is_found(monkeypatch: pytest.MonkeyPatch, slots: int, late: bool) -> None:
    seconds, checkpoints = measure.measure(cast(Engine, timed(monkeypatch, slots, REPLAY, late)), 8)
    assert checkpoints is not None
    beside = cost(2) - cost(1) if late else cost(1)
    assert checkpoints.restore + cost(1) == pytest.approx(RESTORE + beside), "one row that runs again"
    # With one slot, the checkpoint is a part of a pass with guesses.
    assert checkpoints.save == pytest.approx(SAVE if slots > 1 else 0.0)
    for width in (1, 2, 4, 6):
        assert seconds[width] == pytest.approx(cost(width) + (SAVE if slots == 1 and width > 1 else 0.0))


def test_slow_models_are_not_read_anew_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = timed(monkeypatch, 1, Rollback(False, 8))
    measure.measure(cast(Engine, engine), 9, duration=0.0)
    assert engine.read == measure.CONTEXT


@pytest.mark.parametrize("context", [4, 8, 17, 40, 64])
@pytest.mark.parametrize("rollback", [TREES, CHAINS, REPLAY, FORWARD])
def test_a_short_context_is_not_overrun(monkeypatch: pytest.MonkeyPatch, rollback: Rollback, context: int) -> None:
    engine = timed(monkeypatch, 2, rollback)
    engine.context = context
    seconds = measure.measure(cast(Engine, engine), 17).seconds
    assert seconds[1] == pytest.approx(cost(1)) and max(seconds) == (17 if rollback.trees else max(seconds))


def test_what_is_known_is_measured_again_as_far_as_time_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    known = dict.fromkeys((1, 2, 3, 4, 5, 6, 8, 12, 16, 17), 3.0)
    for limit, anew in [(0.1, ()), (9.0, (1, 2, 3, 4)), (100.0, (1, 2, 3, 4, 6, 8, 12, 16, 17))]:
        engine = timed(monkeypatch, 2, TREES)
        monkeypatch.setattr(measure, "RECHECK_SECONDS", limit)
        seconds = measure.measure(cast(Engine, engine), 17, known=known).seconds
        assert seconds == {width: pytest.approx(cost(width) if width in anew else 3.0) for width in known}
        assert engine.now <= max(limit, 2 * cost(1)) and not engine.length(0)


def test_it_is_measured_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    engine = timed(monkeypatch, 2, REPLAY)

    def remembered(it: Any, what: str) -> measure.Measured:
        return measure.remembered(cast(Engine, it), 4, [what])

    first = remembered(engine, "one")
    passes = len(engine.chains)
    assert remembered(engine, "one") == first and isinstance(first.checkpoints, Checkpoints)
    assert len(engine.chains) == passes
    remembered(engine, "another")
    assert len(engine.chains) > passes
    other = timed(monkeypatch, 2, CHAINS)
    assert remembered(other, "one").checkpoints is None and other.chains, "what it allows is a part of the conditions"
    monkeypatch.setattr(measure, "time", engine)
    for file in (tmp_path / "duo").iterdir():
        file.write_text('{"1": 0.5}')  # what an older version wrote, had it had the name
    assert remembered(engine, "one").seconds == pytest.approx(first.seconds)
