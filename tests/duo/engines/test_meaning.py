"""What tokens mean, and how two vocabularies are compared by it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duo.engines.meaning import (
    MAX_DIFFERING,
    MAX_MEANING_BYTES,
    SAMPLED,
    Comparison,
    compare,
    describe,
    fingerprint,
    meaning_of,
    sample,
    trimmed,
)

PLAIN = [b"%d" % token for token in range(1000)]

vocabularies = st.lists(st.sampled_from([b"", b"a", b"b"]), max_size=12)


@given(vocabularies, vocabularies, st.lists(st.integers(1, 5)))
def test_it_finds_what_differs_however_the_draft_is_told(
    target: list[bytes], draft: list[bytes], lengths: Sequence[int]
) -> None:
    differing = [i for i, (a, b) in enumerate(zip_longest(target, draft, fillvalue=b"")) if a != b]
    comparison, at = Comparison(target), 0
    for length in [*lengths, len(draft) + 1]:
        comparison.add(draft[at : at + length])
        at += length
    comparison.finish()
    whole = compare(target, draft)
    assert comparison.tokens == whole.tokens == differing
    assert comparison.count == whole.count == len(differing)
    assert whole.compared == max(trimmed(target), trimmed(draft))
    assert (fingerprint(target) == fingerprint(draft)) == (not differing)
    if differing:
        first = differing[0]
        assert whole.first == tuple(v[first] if first < len(v) else b"" for v in (target, draft))
    assert str(whole).isprintable()


def test_padding_at_the_end_is_nothing_whatever_a_converter_calls_it() -> None:
    padded = [*PLAIN, meaning_of(b"[PAD1000]"), b""]
    assert fingerprint(padded) == fingerprint(PLAIN) and compare(padded, PLAIN).count == 0
    assert trimmed(padded) == len(PLAIN) and meaning_of(b"[PAD]") == b"[PAD]"
    assert trimmed([]) == trimmed([b""]) == 0


def test_a_few_are_one_in_a_hundred_of_the_smaller_vocabulary_and_never_many() -> None:
    def few(size: int, larger: int, differing: int) -> bool:
        target = [b"%d" % token for token in range(larger)]
        draft = [*target[: size - differing], *([b"?"] * differing)]
        return compare(target, draft).few and compare(draft, target).few

    assert few(1000, 1000, 10) and not few(1000, 1000, 11)
    assert few(1000, 1003, 7) and not few(1000, 1003, 8), "what only one has counts as well"
    assert few(200_000, 200_000, MAX_DIFFERING) and not few(200_000, 200_000, MAX_DIFFERING + 1)
    assert not compare(PLAIN, []).few and compare([], []).few


def test_a_vocabulary_that_is_another_one_altogether_takes_no_more_room() -> None:
    other = compare([b"a"] * 10_000, [b"b"] * 10_000)
    assert other.count == 10_000 and len(other.tokens) == MAX_DIFFERING


@pytest.mark.parametrize(
    ("meaning", "shown"),
    [
        (b"", "nothing"),
        (b" the", "' the'"),
        (b"\x1b[2J\n", r"'\x1b[2J\n'"),
        ("日".encode(), r"'\u65e5'"),
        (b"\xff", r"'\\xff'"),
        (b"x" * MAX_MEANING_BYTES, "'" + "x" * 35 + "...'"),
    ],
)
def test_meanings_are_safe_to_show(meaning: bytes, shown: str) -> None:
    assert (
        describe(2, 9, 3, b"a", meaning)
        == f"2 of 9 tokens differ, the first is 3: 'a' in the target, {shown} in the draft"
    )


def test_a_long_meaning_is_its_hash() -> None:
    long, other = b"x" * (MAX_MEANING_BYTES + 1), b"x" * (MAX_MEANING_BYTES + 2)
    assert len(meaning_of(long)) == len(meaning_of(other)) == 32
    assert meaning_of(long) != meaning_of(other) and meaning_of(long[1:]) == long[1:]


class TestSample:
    def test_it_is_small_and_knows_its_own_vocabulary(self) -> None:
        shown = sample([*PLAIN, b"", b""], "fp")
        assert (shown.size, len(shown.meanings)) == (1000, SAMPLED)
        assert shown.resembles(PLAIN) and shown.resembles([*PLAIN, *[b""] * 99])
        assert sample(PLAIN[:7], "fp").meanings == PLAIN[:7]

    def test_a_fine_tune_resembles_it_and_another_family_does_not(self) -> None:
        shown = sample(PLAIN, fingerprint(PLAIN))
        assert shown.resembles([*PLAIN[:990], *[b"<|new|>"] * 10])
        assert not shown.resembles([*PLAIN[:900], *[b"<|new|>"] * 100])
        assert not shown.resembles(PLAIN[:500])
        assert not shown.resembles([b"x", *PLAIN[:-1]])
        assert not shown.resembles([])
