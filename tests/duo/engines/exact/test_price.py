"""What the same bits cost, and what `auto` makes of the price."""

from __future__ import annotations

import pytest

from duo.engines.exact import decision, price, search
from duo.engines.exact.widths import WidthClass

STEEP = {1: 37.0, 2: 102.0, 4: 130.0, 8: 179.0, 16: 291.0}
BF16 = {1: 64.8, 2: 71.7, 4: 90.7, 8: 132.0, 16: 181.0}
FLAT = {1: 100.0, 16: 100.0}


def test_what_the_same_bits_cost() -> None:
    whole, no_lone = WidthClass(1, 16), WidthClass(2, 16)
    assert price.compare(STEEP, whole, 15).plain == 1.0
    assert price.compare(STEEP, no_lone, 15).plain == pytest.approx(37 / 102)
    assert price.compare(BF16, no_lone, 15).plain == pytest.approx(64.8 / 71.7)
    assert price.compare(FLAT, whole, 15).guessing < 0.9, "where rows are free, trees are worth something"
    assert price.compare(FLAT, whole, 15, trees=False).guessing == 1.0
    assert price.compare(FLAT, WidthClass(1, 3), 15).guessing < price.compare(FLAT, whole, 15).guessing


def test_auto_is_on_where_it_costs_next_to_nothing() -> None:
    def mode(
        seconds: dict[int, float], widths: WidthClass | None, mode: decision.Mode = "auto", answers: int = 1
    ) -> decision.Decision:
        return decision.decide(search.SearchResult(widths, seconds), decision.ExactOptions(mode, 15, 32, answers))

    free = {1: 37.0, 2: 102.0, 4: 200.0, 8: 400.0, 16: 800.0}
    assert mode(free, WidthClass(1, 16, covers_prompts=True)).on, "no guesses pay, so chains cost nothing"
    assert not mode(free, WidthClass(1, 16)).on, "each answer would be read again as a part of the next prompt"
    assert not mode(BF16, WidthClass(1, 16)).on, "chains for trees cost more than 3 % with a back"
    assert not mode(free, WidthClass(2, 16)).on
    assert not mode(free, WidthClass(1, 1)).on, "nobody asked to give up guesses"
    assert mode(free, WidthClass(1, 1), "on").on
    off = mode(BF16, WidthClass(2, 16))
    assert "would cost 10 % without guesses" in off.line and not off.on
    on = mode(BF16, WidthClass(2, 16), "on")
    assert on.on and "passes of 2 to 16 rows give the same bits" in on.line
    assert mode(free, None).line.startswith("exact off")
    assert mode(free, WidthClass(1, 16), "off").line == "exact off"


def test_the_price_is_that_of_many_answers_too() -> None:
    """Rows that run alone cost one answer nothing, but eight answers most of their speed."""
    flat = {1: 100.0, 8: 110.0, 16: 120.0}
    assert price.compare(flat, WidthClass(1, 1), 0, answers=8).crowd == pytest.approx(110 / 800)
    assert price.compare(flat, WidthClass(1, 16), 0, answers=8).crowd == 1.0
    assert price.compare(flat, WidthClass(4, 16), 0, answers=8).crowd == pytest.approx(110 / 240), (
        "filled up to 4 rows each"
    )

    def auto(widths: WidthClass, guesses: int, answers: int) -> decision.Decision:
        return decision.decide(search.SearchResult(widths, flat), decision.ExactOptions("auto", guesses, 32, answers))

    assert not auto(WidthClass(1, 1), 0, 8).on
    assert "86 % with 8 answers at once" in auto(WidthClass(1, 1), 0, 8).line


def test_the_price_is_that_of_prompts_too() -> None:
    """Each token takes 4 ms in a pass of 512, 5 ms in one of 16, and by the curve 4.06 ms in one of 256."""
    curve = {1: 20.0, 8: 48.0, 16: 80.0}
    assert price.prompt_speed(curve, WidthClass(1, 16, covers_prompts=True)) == pytest.approx((16 + 512 * 4) / 512 / 5)
    assert price.prompt_speed(curve, WidthClass(1, 16)) == pytest.approx(20 / (20 + (16 + 256 * 4) / 256)), "read again"
    asked = decision.ExactOptions("auto", 0, 32, 1)
    verdict = decision.decide(search.SearchResult(WidthClass(1, 16, covers_prompts=True), curve), asked)
    assert not verdict.on and "19 % with prompts" in verdict.line


def test_auto_is_judged_against_what_is_had_without() -> None:
    """The baseline has no rows that attend one by one, and no flash attention that only the same bits need."""
    free = {1: 37.0, 2: 102.0, 4: 200.0, 8: 400.0, 16: 800.0}
    for slower, on in [((1.0, 1.0), True), ((1.08, 1.0), False), ((1.0, 3.0), False)]:
        found = search.SearchResult(WidthClass(1, 16, covers_prompts=True), free, slower=slower)
        assert decision.decide(found, decision.ExactOptions("auto", 15, 32, 8)).on == on, slower
