"""The cost curve: as measured, then as passes turn out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duo.engines.cost import CostCurve
from tests.support.planning import FLAT, STEEP


class TestCostCurve:
    def test_measured_widths_are_as_measured_and_others_between(self) -> None:
        cost = CostCurve(STEEP)
        for width, seconds in STEEP.items():
            assert cost(width) == pytest.approx(seconds)
        assert cost(3) == pytest.approx((0.102 + 0.130) / 2)
        assert cost(12) == pytest.approx((0.179 + 0.291) / 2)
        assert cost(32) == pytest.approx(0.291 + 16 * (0.291 - 0.179) / 8)

    def test_one_width_is_enough(self) -> None:
        assert CostCurve({1: 0.5})(9) == 0.5

    @pytest.mark.parametrize("bad", [{}, {2: 1.0}, {1: 0.0}, {0: 1.0, 1: 1.0}])
    def test_bad_input(self, bad: dict[int, float]) -> None:
        with pytest.raises(ValueError, match="cost curve"):
            CostCurve(bad)

    def test_it_follows_a_machine_that_gets_busy(self) -> None:
        """All widths become twice as slow; the ones not seen again follow."""
        cost = CostCurve(STEEP)
        for _ in range(40):
            cost.observe(1, 2 * STEEP[1])
            cost.observe(2, 2 * STEEP[2])
        assert cost(1) == pytest.approx(2 * STEEP[1], rel=0.05)
        assert cost(2) == pytest.approx(2 * STEEP[2], rel=0.05)
        assert cost(8) > 1.3 * STEEP[8]

    def test_one_width_may_differ_from_what_was_measured(self) -> None:
        cost = CostCurve(FLAT)
        for _ in range(300):
            cost.observe(1, 0.1)
            cost.observe(5, 0.3)
        assert cost(1) == pytest.approx(0.1, rel=0.1)
        assert cost(5) == pytest.approx(0.3, rel=0.1)

    def test_a_wide_pass_that_was_fast_says_so_of_narrower_ones(self) -> None:
        """The machine was busy while they were measured."""
        cost = CostCurve({1: 0.1, 2: 0.3, 8: 0.13, 16: 0.2})
        assert cost(2) == pytest.approx(0.13)
        for _ in range(100):
            cost.observe(16, 0.12)
            cost.observe(1, 0.1)
        assert cost(4) < 1.25 * cost(1)

    def test_a_width_that_was_slow_once_is_tried_again(self) -> None:
        """A busy machine while wide steps were run; then it is quiet, and only one row is run."""
        cost = CostCurve(FLAT)
        for _ in range(40):
            cost.observe(8, 0.22)
        for _ in range(600):
            cost.observe(1, 0.1)
        assert cost(8) < 1.2 * cost(1)

    @given(st.lists(st.tuples(st.integers(1, 64), st.floats(1e-9, 1e9)), max_size=50))
    def test_always_a_time(self, seen: list[tuple[int, float]]) -> None:
        cost = CostCurve(STEEP)
        for width, seconds in seen:
            cost.observe(width, seconds)
        assert all(0 < cost(width) < float("inf") for width in range(1, 65))
