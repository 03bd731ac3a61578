"""The same bits for the same text: widths, the engine that keeps to them, and what is decided by their price.

`WidthEngine` is a model whose logits say how every token before was computed: a pass of another class leaves other
"bits". So whatever gives other logits on it would give other bits on a real one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duo.engines.base import ROOT, TREES, Chunk, Engine, InterruptedForwardError, Logits, Row
from duo.engines.exact import decision, price, search
from duo.engines.exact.engine import Exact, groups
from duo.engines.exact.widths import Widths
from duo.errors import ModelError
from duo.prefix import EMPTY, mix

SIZE = 16


class Vocabulary:
    size = SIZE


@dataclass
class WidthEngine:
    """`kind`: the class of a pass by the rows of a slot in it and by all of its rows; `reads`: that of a piece by its
    first place and length."""

    kind: Callable[[int, int, int], object]
    reads: Callable[[int, int], object]
    slots: int = 2
    name: str = "fake"
    runtime: str = "fake"
    note: str = ""
    inexact: str = ""
    context: int = 400
    batch: int = 64
    capacity: int = 128
    rollback: object = TREES
    vocabulary: Vocabulary = field(default_factory=Vocabulary)
    passes: list[list[int]] = field(default_factory=list)
    """Rows of each slot in each pass, a piece as a negative number."""
    fail_after: int = -1

    def __post_init__(self) -> None:
        self.states: list[list[int]] = [[] for _ in range(self.slots)]
        """What each committed token left."""
        self.rows: list[list[Row]] = [[] for _ in range(self.slots)]
        self.after: list[list[int]] = [[] for _ in range(self.slots)]

    def length(self, slot: int) -> int:
        return len(self.states[slot])

    def extend(self, slot: int, tokens: Sequence[int]) -> None:
        self.forward((), [Chunk(slot, tokens)])

    def forward(self, rows: Sequence[Row], chunks: Sequence[Chunk] = ()) -> Logits:
        assert not (rows and chunks) and len(chunks) <= 1
        if self.fail_after == 0:
            raise InterruptedForwardError
        self.fail_after -= 1
        for slot, tokens in chunks:
            assert not self.rows[slot]
            kind = self.reads(len(self.states[slot]), len(tokens))
            for token in tokens:
                self.states[slot].append(self._state(self.states[slot], token, kind))
            self.passes.append([-len(tokens)])
        of = {slot: [row for row in rows if row.slot == slot] for slot in {row.slot for row in rows}}
        logits = np.empty((len(rows), SIZE), dtype=np.float32)
        for slot, chain in of.items():
            assert not self.rows[slot], "rows of the last pass were kept or dropped"
            assert [row.parent for row in chain] == [ROOT, *(row.id for row in chain[:-1])], "rows are one chain"
            assert len(self.states[slot]) + len(chain) <= self.context
            before = list(self.states[slot])
            for index, row in enumerate(chain):
                before.append(self._state(before, row.token, self.kind(len(chain), len(rows), index)))
                logits[rows.index(row)] = [mix(before[-1] + v) % 1000 for v in range(SIZE)]
            self.rows[slot], self.after[slot] = chain, before
        if rows:
            self.passes.append([len(chain) for chain in of.values()])
        return logits

    @staticmethod
    def _state(before: Sequence[int], token: int, kind: object) -> int:
        return mix((before[-1] if before else EMPTY) * 31 + token * 7 + hash(str(kind)) % 1000)

    def commit(self, slot: int, path: Sequence[int], rest: Collection[int] = ()) -> None:
        assert list(path) == [row.id for row in self.rows[slot]][: len(path)] and not rest
        if self.rows[slot]:
            self.states[slot] = self.after[slot][: len(self.states[slot]) + len(path)]
            self.rows[slot] = []

    def truncate(self, slot: int, length: int) -> int:
        assert 0 <= length <= len(self.states[slot])
        self.rows[slot] = []
        del self.states[slot][length:]
        return length

    def share(self, source: int, target: int, length: int) -> int:
        self.states[target] = self.states[source][:length]
        return length


def apart(least: int, most: int, step: int = 1, alike: bool = False, **more: Any) -> WidthEngine:
    """Rows have the same bits within a class, and others in every other pass."""

    def kind(mine: int, total: int, index: int) -> object:
        return "class" if all(it in Widths(least, most, step) for it in (mine, total)) else (mine, total, index)

    return WidthEngine(kind, lambda at, count: "class" if alike and count <= most else (at, count), **more)


def exact(engine: WidthEngine, *widths: Any) -> Exact:
    return Exact(cast(Engine, engine), Widths(*widths))


def step(engine: Exact, tokens_of: Mapping[int, Sequence[int]], kept: Mapping[int, int]) -> dict[int, list[bytes]]:
    """Verify a chain in each of these slots and keep so many of its rows; the bits of those."""
    rows: list[Row] = []
    firsts: dict[int, int] = {}
    for slot, tokens in tokens_of.items():
        firsts[slot] = len(rows)
        for i, token in enumerate(tokens):
            rows.append(Row(len(rows), slot, token, len(rows) - 1 if i else ROOT))
    logits = engine.forward(rows).copy()
    found = {}
    for slot, first in firsts.items():
        engine.commit(slot, range(first, first + kept[slot]))
        found[slot] = [row.tobytes() for row in logits[first : first + kept[slot]]]
    return found


CLASSES: list[tuple[int, int, int, bool]] = [
    (1, 32, 1, True), (2, 32, 1, True), (1, 3, 1, True), (8, 32, 4, True), (2, 32, 1, False), (1, 3, 1, False),
    (8, 32, 4, False),
]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.data())
@pytest.mark.parametrize("widths", CLASSES)
def test_bits_depend_on_the_text_alone(widths: tuple[int, int, int, bool], data: st.DataObject) -> None:
    """Two answers, in chains of any length, with prompts in any pieces, from a cache or none."""
    slots = 3
    least, most, by, alike = widths
    engine = exact(apart(least, most, by, alike, slots=slots), *widths)
    texts = [data.draw(st.lists(st.integers(0, SIZE - 1), min_size=80, max_size=80)) for _ in range(2)]
    for index, text in enumerate(texts):
        texts[index] = texts[0][:70] + text[70:] if data.draw(st.booleans()) else text
    prompts = [data.draw(st.integers(1, 75)) for _ in texts]

    def alone(text: Sequence[int], prompt: int) -> list[bytes]:
        plain = exact(apart(least, most, by, alike, slots=slots), *widths)
        plain.extend(0, text[:prompt])
        return [step(plain, {0: [token]}, {0: 1})[0][0] for token in text[prompt:]]

    wanted = [alone(text, prompt) for text, prompt in zip(texts, prompts, strict=True)]
    for _ in range(data.draw(st.integers(1, 3))):
        given: dict[int, int] = {}
        for index, (text, prompt) in enumerate(zip(texts, prompts, strict=True)):
            slot = given[index] = data.draw(st.sampled_from([s for s in range(slots) if s not in given.values()]))
            common = max(n for n in range(engine.length(slot) + 1) if tokens_in(engine, slot)[:n] == text[:n])
            left = engine.truncate(slot, min(common, prompt))
            assert left == engine.length(slot)
            if data.draw(st.booleans()) and index and not left:
                source = given[0]
                common = max(n for n in range(engine.length(source) + 1) if tokens_in(engine, source)[:n] == text[:n])
                left = engine.share(source, slot, min(common, prompt))
            SEEN[id(engine), slot] = list(text[:prompt])
            while left < prompt:
                count = data.draw(st.integers(1, prompt - left))
                engine.forward((), [Chunk(slot, text[left : left + count])])
                left += count
        done = dict.fromkeys(given, 0)
        while active := [index for index in given if prompts[index] + done[index] < len(texts[index])]:
            chains, kept = {}, {}
            for index in active:
                rest = texts[index][prompts[index] + done[index] :]
                right = data.draw(st.integers(1, min(len(rest), most)))
                wrong = data.draw(st.integers(0, most - right))
                chains[given[index]] = [*rest[:right], *([5] * wrong)]
                kept[given[index]] = right
            found = step(engine, chains, kept)
            for index in active:
                slot = given[index]
                begin = done[index]
                assert found[slot] == wanted[index][begin : begin + len(found[slot])]
                done[index] += len(found[slot])
                SEEN[id(engine), slot] = texts[index][: prompts[index] + done[index]]


SEEN: dict[tuple[int, int], list[int]] = {}
"""Tokens that a slot of an engine was given."""


def tokens_in(engine: Exact, slot: int) -> list[int]:
    return SEEN.get((id(engine), slot), [])[: engine.length(slot)]


def test_without_it_the_fake_tells_passes_apart() -> None:
    """The test above could not fail otherwise."""
    engine = apart(2, 32)
    one = engine.forward([Row(0, 0, 5)]).tobytes()
    engine.commit(0, ())
    assert engine.forward([Row(0, 0, 5), Row(1, 0, 6, 0)])[0].tobytes() != one


def test_a_failed_pass_leaves_all_as_it_was() -> None:
    inner = apart(1, 3)
    engine = exact(inner, 1, 3)
    engine.extend(0, [1, 2, 3])
    inner.fail_after = 2
    with pytest.raises(InterruptedForwardError):
        engine.forward([Row(i, 0, 4, i - 1 if i else ROOT) for i in range(9)], [Chunk(1, [4, 5])])
    assert engine.length(0) == 3 and engine.length(1) == 0
    inner.fail_after = -1
    assert len(step(engine, {0: [4, 5, 6, 7, 8]}, {0: 4})[0]) == 4
    assert engine.length(0) == 7


def test_what_is_filled_up_does_not_run_over_the_context() -> None:
    inner = apart(8, 32, 4, context=40)
    engine = exact(inner, 8, 32, 4)
    assert engine.context == 33
    engine.extend(0, [1] * 32)
    engine.extend(1, [1] * 3)
    step(engine, {0: [1], 1: [2] * 20}, {0: 1, 1: 20})  # side by side slot 0 would need 20 rows as well
    assert engine.length(0) == 33


def test_rows_are_one_chain_in_a_slot_without_rows() -> None:
    engine = exact(apart(1, 32), 1, 32)
    with pytest.raises(ValueError, match="one chain"):
        engine.forward([Row(0, 0, 1), Row(1, 0, 2)])
    engine.forward([Row(0, 0, 1)])
    with pytest.raises(ValueError, match="has rows"):
        engine.forward([Row(1, 0, 1)])
    with pytest.raises(ValueError, match="has rows"):
        engine.forward((), [Chunk(0, [1])])
    with pytest.raises(ValueError, match="does not continue"):
        engine.commit(0, [7])
    assert engine.rollback.depth == 31 and not engine.rollback.trees and not engine.mixes


def test_slots_are_filled_up_or_go_apart_by_what_it_costs() -> None:
    rows = {0: 3, 1: 1, 2: 1}
    flat = groups(rows, Widths(1, 32), lambda width: 10.0 + width)
    assert flat == [{0: 3, 1: 3, 2: 3}]
    steep = groups(rows, Widths(1, 32), lambda width: float(width))
    assert steep == [{1: 1, 2: 1}, {0: 3}]
    assert groups({0: 1, 1: 1}, Widths(8, 8), float) == [{0: 8}, {1: 8}], "no wider than the class"


# -- Finding classes ---------------------------------------------------------------------------------------------------


@pytest.fixture
def widest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake's passes take no time worth comparing: the class of the most widths is tried first."""
    monkeypatch.setattr(search, "worth", lambda seconds, widths: widths.most - widths.least)


@pytest.mark.usefixtures("widest")
def test_a_class_is_found_where_there_is_one() -> None:
    for least, most, by, alike in [(1, 32, 1, True), (2, 32, 1, True), (2, 32, 1, False)]:
        engine = apart(least, most, by, alike)
        found = search.find(cast(Engine, engine), 32)
        assert found.widths == (least, most, by, alike)
        assert {1, 2, 3, 4, 8, 16, 32} <= set(found.seconds)
        assert engine.length(0) == engine.length(1) == 0


def test_rows_left_over_from_fours_are_no_class() -> None:
    """As llama.cpp's repacked weights: by fours in one way, what is left in another."""

    def kind(mine: int, total: int, index: int) -> object:
        return "fours" if index < total - total % 4 else "rest"

    engine = WidthEngine(kind, lambda at, count: (at, count), slots=1)
    every = search.largest([1, 2, 3, 4, 5, 6, 8, 11, 12], {(1, 2), (1, 3), (2, 3), (4, 8), (4, 12), (8, 12)})
    assert {it for it in every if it.least < it.most} == {Widths(1, 3), Widths(4, 12, 4)}
    assert search.find(cast(Engine, engine), 32).widths in (Widths(1, 3), Widths(4, 32, 4))


def test_a_pass_that_gives_other_bits_each_time_has_no_class() -> None:
    count = iter(range(10**6))
    engine = WidthEngine(lambda mine, total, index: next(count), lambda at, length: 0)
    assert search.find(cast(Engine, engine), 8).widths is None


@pytest.mark.usefixtures("widest")
@pytest.mark.parametrize("context", [1, 8, 63, 64, 70, 95])
def test_a_short_context_is_compared_as_far_as_it_goes(context: int) -> None:
    found = search.find(cast(Engine, apart(1, 32, alike=True, context=context)), 32)
    if context < search.SHORTEST:
        assert found.widths is None and not found.seconds and "too short to compare" in found.reason
    else:
        assert found.widths is not None and found.widths.most >= 16 and not found.reason


@pytest.mark.usefixtures("widest")
def test_widths_that_depend_on_the_context_are_left_out() -> None:
    found = search.find(cast(Engine, apart(1, 32, alike=True)), 32, unsteady=(1,))
    assert found.widths == (2, 32, 1, True)


@pytest.mark.usefixtures("widest")
def test_a_class_that_nobody_would_use_is_not_proven() -> None:
    passes = []
    for wanted in (True, False):
        engine = apart(1, 32, alike=True)
        found = search.find(cast(Engine, engine), 32, wanted=lambda found, wanted=wanted: wanted)  # type: ignore[misc]
        assert found.widths == (1, 32, 1, wanted)
        passes.append(len(engine.passes))
    assert passes[1] < passes[0]


def test_what_is_set_up_once_is_not_in_the_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """A first pass of each run may take long. No other does."""
    now = 0.0

    def kind(mine: int, total: int, index: int) -> object:
        nonlocal now
        if not index:
            now += 1.0 if engine.passes[1:] else 50.0
        return "class"

    class Clock:
        @staticmethod
        def perf_counter() -> float:
            return now

    engine = WidthEngine(kind, lambda at, count: 0)
    monkeypatch.setattr(search, "time", Clock)
    seconds = search.find(cast(Engine, engine), 32).seconds
    assert set(seconds) == set(search.WIDTHS) and set(seconds.values()) == {1.0}


@pytest.mark.usefixtures("widest")
def test_a_class_in_which_other_slots_show_is_none() -> None:
    def kind(mine: int, total: int, index: int) -> object:
        return "alone" if mine == total else "in company"

    engine = WidthEngine(kind, lambda at, count: 0)
    found = search.find(cast(Engine, engine), 32).widths
    assert found is None or found.most == 1


# -- The price ---------------------------------------------------------------------------------------------------------

STEEP = {1: 37.0, 2: 102.0, 4: 130.0, 8: 179.0, 16: 291.0}
BF16 = {1: 64.8, 2: 71.7, 4: 90.7, 8: 132.0, 16: 181.0}
FLAT = {1: 100.0, 16: 100.0}


def test_what_the_same_bits_cost() -> None:
    whole, no_lone = Widths(1, 16), Widths(2, 16)
    assert price.compare(STEEP, whole, 15).plain == 1.0
    assert price.compare(STEEP, no_lone, 15).plain == pytest.approx(37 / 102)
    assert price.compare(BF16, no_lone, 15).plain == pytest.approx(64.8 / 71.7)
    assert price.compare(FLAT, whole, 15).guessing < 0.9, "where rows are free, trees are worth something"
    assert price.compare(FLAT, whole, 15, trees=False).guessing == 1.0
    assert price.compare(FLAT, Widths(1, 3), 15).guessing < price.compare(FLAT, whole, 15).guessing


def test_auto_is_on_where_it_costs_next_to_nothing() -> None:
    def mode(
        seconds: dict[int, float], widths: Widths | None, mode: decision.Mode = "auto", answers: int = 1
    ) -> decision.Verdict:
        return decision.decide(search.Found(widths, seconds), decision.Asked(mode, 15, 32, answers))

    free = {1: 37.0, 2: 102.0, 4: 200.0, 8: 400.0, 16: 800.0}
    assert mode(free, Widths(1, 16, alike=True)).on, "no guesses pay, so chains cost nothing"
    assert not mode(free, Widths(1, 16)).on, "each answer would be read again as a part of the next prompt"
    assert not mode(BF16, Widths(1, 16)).on, "chains for trees cost more than 3 % with a back"
    assert not mode(free, Widths(2, 16)).on
    assert not mode(free, Widths(1, 1)).on, "nobody asked to give up guesses"
    assert mode(free, Widths(1, 1), "on").on
    off = mode(BF16, Widths(2, 16))
    assert "would cost 10 % without guesses" in off.line and not off.on
    on = mode(BF16, Widths(2, 16), "on")
    assert on.on and "passes of 2 to 16 rows give the same bits" in on.line
    assert mode(free, None).line.startswith("exact off")
    assert mode(free, Widths(1, 16), "off").line == "exact off"


def test_the_price_is_that_of_many_answers_too() -> None:
    """Rows that run alone cost an answer nothing, and eight of them most of their tokens."""
    flat = {1: 100.0, 8: 110.0, 16: 120.0}
    assert price.compare(flat, Widths(1, 1), 0, answers=8).crowd == pytest.approx(110 / 800)
    assert price.compare(flat, Widths(1, 16), 0, answers=8).crowd == 1.0
    assert price.compare(flat, Widths(4, 16), 0, answers=8).crowd == pytest.approx(110 / 240), (
        "filled up to 4 rows each"
    )

    def auto(widths: Widths, guesses: int, answers: int) -> decision.Verdict:
        return decision.decide(search.Found(widths, flat), decision.Asked("auto", guesses, 32, answers))

    assert not auto(Widths(1, 1), 0, 8).on
    assert "86 % with 8 answers at once" in auto(Widths(1, 1), 0, 8).line


def test_the_price_is_that_of_prompts_too() -> None:
    """A pass of 512 tokens takes 4 ms for each; one of 16 takes 5, and one of 256 by the curve 4.06."""
    curve = {1: 20.0, 8: 48.0, 16: 80.0}
    assert price.reading(curve, Widths(1, 16, alike=True)) == pytest.approx((16 + 512 * 4) / 512 / 5)
    assert price.reading(curve, Widths(1, 16)) == pytest.approx(20 / (20 + (16 + 256 * 4) / 256)), "read again"
    asked = decision.Asked("auto", 0, 32, 1)
    verdict = decision.decide(search.Found(Widths(1, 16, alike=True), curve), asked)
    assert not verdict.on and "19 % with prompts" in verdict.line


def test_auto_is_judged_against_what_is_had_without() -> None:
    """Rows that attend one by one, or flash attention that only the same bits need, are no baseline."""
    free = {1: 37.0, 2: 102.0, 4: 200.0, 8: 400.0, 16: 800.0}
    for slower, on in [((1.0, 1.0), True), ((1.08, 1.0), False), ((1.0, 3.0), False)]:
        found = search.Found(Widths(1, 16, alike=True), free, slower=slower)
        assert decision.decide(found, decision.Asked("auto", 15, 32, 8)).on == on, slower


@pytest.mark.parametrize("reason", ["it runs on a GPU", ""])
def test_the_same_bits_that_cannot_be_had_are_refused_in_a_line(
    reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    count = iter(range(10**6))
    changing = WidthEngine(lambda mine, total, index: next(count), lambda at, length: 0, inexact=reason)
    for _ in range(2):  # found, and remembered
        with pytest.raises(ModelError) as raised:
            decision.serve(lambda chains, trial: cast(Engine, changing), decision.Asked("on", 15, 32, 1), [])
        assert "\n" not in str(raised.value) and "--exact" in str(raised.value)
        assert (reason or "different bits") in str(raised.value)


# -- Serving -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("widest")
@pytest.mark.parametrize("mode", ["on", "auto"])
def test_what_was_found_once_is_known_before_the_model_is_loaded(
    mode: decision.Mode, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(price, "AFFORDABLE", 0.0 if mode == "on" else 2.0)
    loads: list[tuple[bool, bool]] = []
    engines: list[WidthEngine] = []

    def load(chains: bool, trial: bool) -> Engine:
        loads.append((chains, trial))
        engines.append(apart(1, 32, alike=True))
        return cast(Engine, engines[-1])

    asked = decision.Asked(mode, 15, 32, 1)
    first, again = (decision.serve(load, asked, ["a model"]) for _ in range(2))
    assert loads == [(True, True), (mode == "on", False)]
    assert (again.line, again.on, again.seconds) == (first.line, first.on, first.seconds)
    assert isinstance(again.engine, Exact) == (mode == "on") and first.guesses
    assert engines[0].passes and not engines[1].passes, "nothing is measured again"


@pytest.mark.usefixtures("widest")
def test_a_class_is_taken_from_another_start_without_what_is_not_steady(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    unsteady: list[int] = []

    def load(chains: bool, trial: bool) -> Engine:
        engine: Any = apart(1, 32, alike=True)
        engine.unsteady = tuple(unsteady)
        return cast(Engine, engine)

    found = []
    for unsteady in ([], [1]):  # noqa: B007
        served = decision.serve(load, decision.Asked("on", 15, 32, 1), [])
        assert isinstance(served.engine, Exact)
        found.append(served.engine.widths)
    assert found == [(1, 32, 1, True), (2, 32, 1, True)]
