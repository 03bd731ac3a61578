"""Classes of widths are found where there are some, and nowhere else."""

from __future__ import annotations

from typing import cast

import pytest

from duo.engines.base import Engine
from duo.engines.exact import search
from duo.engines.exact.widths import WidthClass
from tests.support.width_engine import WidthEngine, apart


@pytest.mark.usefixtures("widest")
def test_a_class_is_found_where_there_is_one() -> None:
    for least, most, by, covers_prompts in [(1, 32, 1, True), (2, 32, 1, True), (2, 32, 1, False)]:
        engine = apart(least, most, by, covers_prompts)
        found = search.find_class(cast(Engine, engine), 32)
        assert found.widths == (least, most, by, covers_prompts)
        assert {1, 2, 3, 4, 8, 16, 32} <= set(found.seconds)
        assert engine.length(0) == engine.length(1) == 0


def test_rows_left_over_from_fours_are_no_class() -> None:
    """llama.cpp's repacked weights compute rows by fours, and the rest in another way."""

    def kind(mine: int, total: int, index: int) -> object:
        return "fours" if index < total - total % 4 else "rest"

    engine = WidthEngine(kind, lambda at, count: (at, count), slots=1)
    every = search.largest_classes([1, 2, 3, 4, 5, 6, 8, 11, 12], {(1, 2), (1, 3), (2, 3), (4, 8), (4, 12), (8, 12)})
    assert {it for it in every if it.narrowest < it.widest} == {WidthClass(1, 3), WidthClass(4, 12, 4)}
    assert search.find_class(cast(Engine, engine), 32).widths in (WidthClass(1, 3), WidthClass(4, 32, 4))


def test_a_pass_that_gives_other_bits_each_time_has_no_class() -> None:
    count = iter(range(10**6))
    engine = WidthEngine(lambda mine, total, index: next(count), lambda at, length: 0)
    assert search.find_class(cast(Engine, engine), 8).widths is None


@pytest.mark.usefixtures("widest")
@pytest.mark.parametrize("context", [1, 8, 63, 64, 70, 95])
def test_a_short_context_is_compared_as_far_as_it_goes(context: int) -> None:
    found = search.find_class(cast(Engine, apart(1, 32, covers_prompts=True, context=context)), 32)
    if context < search.MIN_CONTEXT:
        assert found.widths is None and not found.seconds and "too short to compare" in found.reason
    else:
        assert found.widths is not None and found.widths.widest >= 16 and not found.reason


@pytest.mark.usefixtures("widest")
def test_widths_that_depend_on_the_context_are_left_out() -> None:
    found = search.find_class(cast(Engine, apart(1, 32, covers_prompts=True)), 32, unsteady=(1,))
    assert found.widths == (2, 32, 1, True)


@pytest.mark.usefixtures("widest")
def test_a_class_that_nobody_would_use_is_not_proven() -> None:
    passes = []
    for wanted in (True, False):
        engine = apart(1, 32, covers_prompts=True)
        found = search.find_class(cast(Engine, engine), 32, wanted=lambda found, wanted=wanted: wanted)  # type: ignore[misc]
        assert found.widths == (1, 32, 1, wanted)
        passes.append(len(engine.passes))
    assert passes[1] < passes[0]


def test_what_is_set_up_once_is_not_in_the_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first pass takes long."""
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
    seconds = search.find_class(cast(Engine, engine), 32).seconds
    assert set(seconds) == set(search.WIDTHS) and set(seconds.values()) == {1.0}


@pytest.mark.usefixtures("widest")
def test_a_class_in_which_other_slots_show_is_none() -> None:
    def kind(mine: int, total: int, index: int) -> object:
        return "alone" if mine == total else "in company"

    engine = WidthEngine(kind, lambda at, count: 0)
    found = search.find_class(cast(Engine, engine), 32).widths
    assert found is None or found.widest == 1
