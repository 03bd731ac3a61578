"""The index of n-grams against a plain search, and its bounds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hypothesis import given
from hypothesis import strategies as st

from duo.draft.ngrams import LENGTHS, MAX_LOOKS, MAX_MATCH, PIECE, SPACING, TEXT_COST, NgramIndex, Text
from duo.prefix import Prefix

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


def opened(index: NgramIndex, tokens: Iterable[int]) -> Text:
    """A text of these tokens, indexed to its end."""
    text = index.open(Prefix(tokens))
    while index.catch_up():
        pass
    return text


@given(st.lists(TOKENS, min_size=1, max_size=4), TOKENS, st.integers(1, 40))
def test_a_text_is_found_however_it_was_indexed(texts: list[list[int]], more: list[int], most: int) -> None:
    index, other = NgramIndex(), NgramIndex()
    for tokens in texts:
        opened(index, tokens)
        prefix = Prefix(tokens[:5])
        text = other.open(prefix)
        for token in tokens[5:]:
            prefix.extend([token])
            other.extend(text, prefix)
            other.catch_up(most)
        while other.catch_up(most):
            pass
    found, again = index.matches(opened(index, more)), other.matches(opened(other, more))
    assert [match.length for match in found] == [match.length for match in again]


@given(st.lists(TOKENS, min_size=1, max_size=3), TOKENS)
def test_matches_are_true_and_as_long_as_can_be(texts: list[list[int]], tail: list[int]) -> None:
    index = NgramIndex()
    for tokens in texts:
        opened(index, tokens)
    asked = opened(index, tail)
    found = index.matches(asked)
    for text, position, length in found:
        assert list(text.tokens[position - length : position]) == tail[-length:]
        assert position < len(text.tokens)
    best = longest([*texts, tail], tail)
    assert bool(found) == (best >= min(LENGTHS))
    if found:
        assert found[0].length <= best


def test_the_turns_of_a_conversation_are_taken_in_once() -> None:
    index, turn = NgramIndex(), list(range(5000))
    for length in range(500, 5000, 100):
        opened(index, turn[:length])
    assert len(index) < 5000 + 45 * (TEXT_COST + SPACING + MAX_MATCH)
    (match, *_) = index.matches(opened(index, [9000, *turn[300:340]]))
    assert (match.text.tokens[match.position], match.length) == (340, 40)
    (match, *_) = index.matches(opened(index, [9000, *turn[4600:4640]]))
    assert (match.text.tokens[match.position], match.length) == (4640, 40)


def test_the_oldest_texts_are_dropped() -> None:
    index = NgramIndex(max_tokens=1000)
    for number in range(100):
        opened(index, range(100 * number, 100 * number + 100))
        assert len(index) <= 2 * (1000 + TEXT_COST)
    assert not index.matches(opened(index, range(10)))
    assert index.matches(opened(index, range(9800, 9810)))


def test_a_text_that_is_too_long_is_known_by_its_end() -> None:
    index = NgramIndex(max_tokens=1000)
    opened(index, [7])
    opened(index, range(5000))
    assert len(index) <= 2 * (1000 + TEXT_COST)
    assert index.matches(opened(index, range(4900, 4910)))


def test_few_places_are_looked_at_however_often_an_n_gram_was_seen() -> None:
    index = NgramIndex(max_tokens=3000)
    for first in (1, 2):  # one in each generation
        opened(index, [first, *[0] * 2500])
    assert len(index.matches(opened(index, [5, *[0] * 10]))) == MAX_LOOKS


def test_a_long_text_is_indexed_in_pieces() -> None:
    index = NgramIndex()
    index.open(Prefix(range(1000)))
    assert index.catch_up() == PIECE
    assert sum(iter(index.catch_up, 0)) == 999 - PIECE
