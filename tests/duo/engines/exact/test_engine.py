"""The engine that keeps to a class of widths: its bits depend on the text alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duo.engines.base import ROOT, Chunk, Engine, InterruptedForwardError, Row
from duo.engines.exact.engine import ExactEngine, groups
from duo.engines.exact.widths import WidthClass
from tests.support.width_engine import SIZE, WidthEngine, apart


def exact(engine: WidthEngine, *widths: Any) -> ExactEngine:
    return ExactEngine(cast(Engine, engine), WidthClass(*widths))


def step(
    engine: ExactEngine, tokens_of: Mapping[int, Sequence[int]], kept: Mapping[int, int]
) -> dict[int, list[bytes]]:
    """Verify a chain in each slot, and commit the first `kept` rows of each. Returns their bits."""
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
@pytest.mark.parametrize(
    "widths",
    [CLASSES[0], CLASSES[5], *(pytest.param(each, marks=pytest.mark.slow) for each in CLASSES[1:5] + CLASSES[6:])],
)
def test_bits_depend_on_the_text_alone(widths: tuple[int, int, int, bool], data: st.DataObject) -> None:
    """Two answers, in chains of any length, with prompts in any chunks, with or without a cache."""
    slots = 3
    least, most, by, covers_prompts = widths
    engine = exact(apart(least, most, by, covers_prompts, slots=slots), *widths)
    texts = [data.draw(st.lists(st.integers(0, SIZE - 1), min_size=80, max_size=80)) for _ in range(2)]
    for index, text in enumerate(texts):
        texts[index] = texts[0][:70] + text[70:] if data.draw(st.booleans()) else text
    prompts = [data.draw(st.integers(1, 75)) for _ in texts]

    def alone(text: Sequence[int], prompt: int) -> list[bytes]:
        plain = exact(apart(least, most, by, covers_prompts, slots=slots), *widths)
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
                last = left + count == prompt and data.draw(st.booleans())  # the caller may say so, or not
                engine.forward((), [Chunk(slot, text[left : left + count], last)])
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
"""Tokens that each slot of an engine was given."""


def tokens_in(engine: ExactEngine, slot: int) -> list[int]:
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
    flat = groups(rows, WidthClass(1, 32), lambda width: 10.0 + width)
    assert flat == [{0: 3, 1: 3, 2: 3}]
    steep = groups(rows, WidthClass(1, 32), lambda width: float(width))
    assert steep == [{1: 1, 2: 1}, {0: 3}]
    assert groups({0: 1, 1: 1}, WidthClass(8, 8), float) == [{0: 8}, {1: 8}], "no wider than the class"
