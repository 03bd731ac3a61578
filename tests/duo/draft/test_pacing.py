"""When a back sends, between two commits."""

from __future__ import annotations

import itertools

import pytest

from duo.draft.pacing import BUNDLE_SECONDS, MIN_PAUSE, Pacing


def regular(period: float, unguessed: bool = False) -> Pacing:
    it = Pacing()
    for number in range(21):
        it.committed(number * period, unguessed)
    return it


def spoken(it: Pacing, start: float, end: float, step: float = 0.0005) -> list[float]:
    """When it sends between `start` and `end`, with something new every `step`."""
    said: list[float] = []
    for i in range(1, int((end - start) / step) + 1):
        now = start + i * step
        if it.due(now):
            it.sent(now)
            said.append(now - start)
    return said


def test_while_the_target_is_at_work_messages_are_few() -> None:
    said = spoken(regular(0.1), 2.0, 2.08)
    assert 2 <= len(said) <= 0.08 / BUNDLE_SECONDS + 1


def test_the_last_word_is_shortly_before_the_next_commit() -> None:
    for period in (0.01, 0.03, 0.1):
        said = spoken(regular(period), 20 * period, 21 * period, period / 200)
        assert 0.8 * period <= max(said) <= period


def test_a_lead_that_waits_hears_at_once() -> None:
    said = spoken(regular(0.1, unguessed=True), 2.0, 2.02)
    assert said[0] == pytest.approx(0.0005)
    assert max(b - a for a, b in itertools.pairwise(said)) <= 2 * MIN_PAUSE


def test_a_commit_that_is_late_is_waited_for_with_all_that_there_is() -> None:
    said = spoken(regular(0.02), 0.4, 0.5)
    late = [moment for moment in said if moment > 0.02]
    assert max(b - a for a, b in itertools.pairwise(late)) <= 0.005
