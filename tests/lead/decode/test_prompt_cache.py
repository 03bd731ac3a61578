"""Prompts that left their slots: which are kept, and which are found."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from duo.engines.slot_copy import SlotCopy
from duo.prefix import common_length
from lead.decode.prompt_cache import TOKEN_BYTES, PromptCache


def copy(length: int, size: int = 100, lengths: list[int] | None = None) -> SlotCopy:
    return SlotCopy(length, {"it": np.zeros(size, dtype=np.uint8)}, {}, lengths)


def test_the_longest_beginning_is_found() -> None:
    cache = PromptCache(10_000)
    assert cache.find([1, 2], 2) is None
    cache.add([1, 2, 3, 4], copy(4))
    cache.add([1, 2, 9, 9, 9], copy(5))
    found = cache.find([1, 2, 3, 7], 4)
    assert found is not None and found.kept.tokens == [1, 2, 3, 4] and found.length == 3
    found = cache.find([1, 2, 3, 7], 2)
    assert found is not None and found.length == 2
    assert cache.find([5], 1) is None


def test_a_state_is_found_where_it_can_be_cut() -> None:
    cache = PromptCache(10_000)
    cache.add(list(range(20)), copy(20, lengths=[8, 20]))
    cache.add([*range(12), 99], copy(13, lengths=[4, 13]))
    found = cache.find([*range(12), 50], 13)
    assert found is not None and (found.length, len(found.kept.tokens)) == (8, 20)
    assert cache.holds(list(range(20))) and not cache.holds(list(range(12)))


def test_what_goes_on_replaces_its_beginning() -> None:
    cache = PromptCache(10_000)
    cache.add([1, 2], copy(2))
    cache.add([3], copy(1))
    cache.add([1, 2, 3], copy(3))
    assert len(cache) == 2
    cache.add([1, 2, 3], copy(3))
    assert len(cache) == 2 and cache.bytes == 2 * 100 + TOKEN_BYTES * 4


def test_the_one_that_was_used_least_lately_goes() -> None:
    size = 100 + TOKEN_BYTES
    cache = PromptCache(3 * size)
    for token in range(3):
        assert cache.add([token], copy(1))
    found = cache.find([0, 5], 2)
    assert found is not None and cache.holds([0])
    cache.add([3], copy(1))
    assert [cache.holds([token]) for token in range(4)] == [True, False, True, True]
    assert not cache.add([4], copy(1, 4 * size)) and len(cache) == 3 and not cache.fits(4 * size)


def test_a_copy_that_a_slot_holds_whole_is_not_needed_any_more() -> None:
    cache = PromptCache(10_000)
    cache.add([1, 2, 3], copy(3))
    part = cache.find([1, 2, 9], 3)
    assert part is not None
    cache.used(part)
    assert len(cache) == 1
    whole = cache.find([1, 2, 3, 4], 4)
    assert whole is not None
    cache.used(whole)
    cache.used(whole)
    assert len(cache) == 0 and cache.bytes == 0


def test_a_cache_of_no_bytes_keeps_nothing() -> None:
    assert not PromptCache(0).add([1], copy(1, 1))


@given(st.lists(st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=6), st.integers(1, 200)), max_size=20))
def test_bytes_and_best_stay_right(prompts: list[tuple[list[int], int]]) -> None:
    cache, kept = PromptCache(500), list[list[int]]()
    for tokens, size in prompts:
        cache.add(tokens, copy(len(tokens), size))
        assert cache.bytes <= 500
        found = cache.find(tokens, len(tokens))
        fits = size + TOKEN_BYTES * len(tokens) <= 500
        assert not fits or (found is not None and found.length == len(tokens))
        kept.append(tokens)
        if found is not None:
            assert found.length == common_length(found.kept.tokens, tokens)
            assert found.kept.tokens in kept
    cache.clear()
    assert cache.bytes == len(cache) == 0
