"""The speed-up that the lead names beside the one that is measured."""

from __future__ import annotations

import pytest

from bench.compare.named import Answered, Comparison


def test_both_are_of_all_answers_together() -> None:
    compared = Comparison(
        [Answered(2.0, None), Answered(6.0, None)], [Answered(1.0, 2.0, 0.1), Answered(3.0, 1.6, 0.2)]
    )
    assert compared.measured.value == 2.0
    assert compared.named == pytest.approx((2.0 * 1.0 + 1.6 * 3.0) / 4.0)
    assert compared.spread == "1.60 to 2.00"


def test_answers_without_a_figure_are_left_out() -> None:
    compared = Comparison([Answered(2.0, None)] * 2, [Answered(1.0, None), Answered(1.0, 1.9)])
    assert compared.named == pytest.approx(1.9)
    assert Comparison().spread == "nothing"
