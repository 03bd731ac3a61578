"""What memory claims of its guesses."""

from __future__ import annotations

from duo.draft.claims import START, Claims, prior, smoothed


def test_before_anything_is_known_claims_rise_with_the_match_and_with_what_was_right_lately() -> None:
    claims = [prior(length, START) for length in range(3, 200)]
    assert claims == sorted(claims)
    assert 0.0 < claims[0] < 0.5 < 0.95 < claims[-1] < 1.0
    assert prior(5, 0.2) == prior(5, START) < prior(5, 0.7) < prior(5, 1.0) < 1.0


def test_the_record_of_a_band_corrects_it_alone() -> None:
    claims = Claims()
    other, before = claims.chance(5, 1.0), claims.chance(5, START)
    for number in range(500):
        claims.outcome(5, START, number % 10 == 0)
    assert abs(claims.chance(4, START) - 0.1) < 0.02 < before
    assert claims.chance(5, 1.0) == other


def test_the_share_follows_the_outcomes() -> None:
    lately = START
    for _ in range(50):
        lately = smoothed(lately, True)
    assert lately > 0.99
    assert smoothed(lately, False) < lately
