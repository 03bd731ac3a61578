"""The distance of two clocks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duo.wire.clock import ClockOffset

delays = st.floats(0, 10)


@given(st.floats(-1e6, 1e6), st.lists(st.tuples(delays, delays, delays), min_size=1, max_size=20))
def test_the_clock_offset_is_right_to_half_a_round_trip(ahead: float, pings: list[tuple[float, float, float]]) -> None:
    offset, now = ClockOffset(), 0.0
    for pause, there, back_again in pings:
        now += pause
        sent, now = now, now + there + back_again
        offset.answered(sent, now, sent + there + ahead)
        assert offset.ahead is not None
        assert abs(offset.ahead - ahead) <= offset.round_trip / 2 + 1e-6
    # What is known ages.
    for _ in range(100):
        now += 1000.0
        offset.answered(now - 0.02, now, now + ahead + 1.0)
    assert offset.ahead == pytest.approx(ahead + 1.0, abs=0.02)
