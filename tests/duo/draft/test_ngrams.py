"""The index of n-grams against a plain search, and its bounds."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from duo.draft.ngrams import LENGTHS, MAX_COMPARED, MAX_MATCH, NgramIndex

TOKENS = st.lists(st.integers(0, 3), max_size=60)


def longest(texts: Sequence[Sequence[int]], tail: Sequence[int]) -> int:
    """How many of the last tokens stand before some other place of the texts, at most `MAX_MATCH`."""
    most = 0
    for text in texts:
        for end in range(1, len(text)):
            agreed = 0
            while agreed < min(end, len(tail), MAX_MATCH) and text[end - 1 - agreed] == tail[-1 - agreed]:
                agreed += 1
            most = max(most, agreed)
    return most


@given(st.lists(TOKENS, min_size=1, max_size=4), TOKENS)
def test_a_text_that_grows_is_found_as_one_that_was_there_at_once(texts: list[list[int]], more: list[int]) -> None:
    index, other = NgramIndex(), NgramIndex()
    for tokens in texts:
        index.open(tokens)
        other.extend(other.open([]), tokens)
    last, grown = index.open(more), other.open([])
    other.extend(grown, more)
    found, again = index.matches(last), other.matches(grown)
    assert [match.length for match in found[:1]] == [match.length for match in again[:1]]


@given(st.lists(TOKENS, min_size=1, max_size=3), TOKENS)
def test_matches_are_true_and_as_long_as_can_be(texts: list[list[int]], tail: list[int]) -> None:
    index = NgramIndex()
    for tokens in texts:
        index.open(tokens)
    asked = index.open(tail)
    found = index.matches(asked)
    for text, position, length in found:
        assert list(text.tokens[position - length : position]) == tail[-length:]
        assert position < len(text.tokens)
    best = longest([*texts, tail], tail)
    assert bool(found) == (best >= min(LENGTHS))
    if found and best < max(LENGTHS):
        assert found[0].length <= best
    if best >= max(LENGTHS):
        assert found[0].length >= max(LENGTHS)


def test_the_turns_of_a_conversation_are_indexed_once() -> None:
    index = NgramIndex()
    turn = list(range(1000))
    for length in range(100, 1000, 100):
        index.open(turn[:length])
    assert len(index) < 1000 + MAX_COMPARED
    asked = index.open([5000, *turn[300:340]])
    assert asked.tokens[-1] == 339
    (match, *_) = index.matches(asked)
    assert (match.text.tokens[match.position], match.length) == (340, 40)


def test_the_oldest_texts_are_dropped() -> None:
    index = NgramIndex(max_tokens=1000)
    for number in range(100):
        index.open(range(100 * number, 100 * number + 100))
        assert len(index) <= 2 * 1000
    assert not index.matches(index.open(range(10)))
    assert index.matches(index.open(range(9800, 9810)))
