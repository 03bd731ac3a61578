"""Cost curves as people type them."""

from __future__ import annotations

import argparse

import pytest

from lead.simulation.curves import points


@pytest.mark.parametrize("text", ["1:0", "-5", "1:nan", "1:inf", "1:5,2:1e300"])
def test_times_that_no_forward_pass_takes(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="milliseconds must be above 0, and at most 3,600,000"):
        points(text)


def test_a_curve_may_fall() -> None:
    """As one that was measured on a busy machine."""
    assert points("1:65, 2:60") == [(1, 65.0), (2, 60.0)]
