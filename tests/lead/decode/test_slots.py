"""Which slot an answer gets, and what its cache saves."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from duo.errors import BusyError
from lead.plan.limits import Limits
from lead.plan.planner import Planner
from tests.support.loop import FLAT, GREEDY, MODEL, Asked, Fixed, Loop
from tests.support.slotted import CHAINS, SlottedEngine


def test_a_conversation_goes_on_from_where_it_ended_though_its_state_cannot_be_cut() -> None:
    loop = Loop(2, Planner(Fixed(FLAT), Limits(rollback=CHAINS)), engine=SlottedEngine(MODEL, 2, CHAINS, 50))
    first = loop.ask(Asked([9] * 60, GREEDY, 4))
    loop.finish()
    longer = loop.ask(Asked([9] * 60 + first.tokens + [7, 7], GREEDY, 4))
    loop.finish()
    assert longer.request.cached_tokens == 60 + len(first.tokens) - 1
    stranger = loop.ask(Asked([9] * 55 + [8] * 5, GREEDY, 4))
    loop.finish()
    assert stranger.request.cached_tokens == 50 and stranger.tokens == stranger.expected


def test_what_conversations_have_in_common_is_read_once() -> None:
    loop = Loop(3)
    system = [4 + i % 7 for i in range(60)]
    asked = [loop.ask(Asked([*system, 4 + i, 5, 6], GREEDY, 5)) for i in range(3)]
    loop.finish()
    assert all(one.tokens == one.expected for one in asked)
    assert [one.request.cached_tokens for one in asked] == [0, 60, 60]
    assert loop.engine.read < 60 + 3 * 3
    assert loop.engine.shared == 120


def test_a_conversation_finds_its_slot_again() -> None:
    loop = Loop(2)
    first, _ = loop.ask(Asked([9] * 30, GREEDY, 4)), loop.ask(Asked([8] * 30, GREEDY, 4))
    loop.finish()
    longer = loop.ask(Asked([9] * 30 + first.tokens + [7, 7], GREEDY, 4))
    loop.finish()
    assert longer.request.session.slot == first.request.session.slot
    # The last token of an answer is never read.
    assert longer.request.cached_tokens == 30 + len(first.tokens) - 1
    assert loop.engine.shared == 0


def test_a_stranger_does_not_cost_a_long_conversation_its_cache() -> None:
    loop = Loop(2)
    long = loop.ask(Asked([9] * 100, GREEDY, 4))
    loop.finish()
    stranger = loop.ask(Asked([9] * 10 + [8] * 5, GREEDY, 4))
    loop.finish()
    assert stranger.request.session.slot != long.request.session.slot
    assert stranger.request.cached_tokens == 10
    again = loop.ask(Asked([9] * 100 + long.tokens, GREEDY, 4))
    loop.finish()
    assert again.request.cached_tokens >= 100


def conversation(token: int, count: int = 100) -> list[int]:
    return [token, *(4 + i % 7 for i in range(count - 1))]


def answered(loop: Loop, prompt: Sequence[int]) -> Asked:
    asked = loop.ask(Asked(prompt, GREEDY, 4))
    loop.finish()
    assert asked.tokens == asked.expected
    return asked


@pytest.mark.parametrize("spacing", [0, 80])
def test_a_prompt_that_left_its_slot_is_brought_back(spacing: int) -> None:
    loop = Loop(1, engine=SlottedEngine(MODEL, 1, spacing=spacing), cache_bytes=1 << 20)
    swap = loop.decoder.slots.swap
    first = answered(loop, conversation(8))
    assert answered(loop, conversation(9)).request.cached_tokens == 0
    assert len(swap.cache) == 1
    longer = answered(loop, [*conversation(8), *first.tokens, 7, 7])
    assert longer.request.cached_tokens == 100 + len(first.tokens) - 1
    assert (swap.counts.hits, swap.counts.tokens) == (1, 100 + len(first.tokens) - 1)
    # The other one was saved when it left. The first one is in its slot, and so needs no copy.
    assert len(swap.cache) == 1 and loop.engine.copies == 2
    # A prompt that shares the beginning alone gets that, and the copy stays.
    stranger = answered(loop, [*conversation(9)[:90], 8, 8])
    assert stranger.request.cached_tokens == (80 if spacing else 90)
    for token in (8, 9):
        assert (found := swap.cache.find(conversation(token), 200)) is not None and found.length >= 99


def test_nothing_is_kept_without_a_cache() -> None:
    loop = Loop(1)
    answered(loop, conversation(8))
    answered(loop, conversation(9))
    assert answered(loop, conversation(8)).request.cached_tokens == 0
    assert loop.engine.copies == 0


def test_what_needs_no_copy_gets_none() -> None:
    loop = Loop(2, cache_bytes=1 << 20)
    first = answered(loop, conversation(8))
    answered(loop, [*conversation(8), *first.tokens, 5])  # the same conversation goes on
    answered(loop, conversation(8)[:80])  # its beginning
    assert loop.engine.copies == 0
    loop = Loop(1, cache_bytes=1 << 20)
    answered(loop, conversation(9, 20))  # a short one
    answered(loop, conversation(10, 20))
    assert loop.engine.copies == 0
    # Both slots have the same beginning, and one keeps it.
    loop = Loop(2, cache_bytes=1 << 20)
    both = [loop.ask(Asked([*conversation(8), 4 + i], GREEDY, 1)) for i in range(2)]
    loop.finish()
    assert all(it.tokens == it.expected for it in both)
    answered(loop, conversation(9))
    assert loop.engine.copies == 1


def test_a_copy_that_cannot_be_restored_is_forgotten() -> None:
    loop = Loop(1, cache_bytes=1 << 20)
    answered(loop, conversation(8))
    answered(loop, conversation(9))
    loop.engine.broken = True
    assert answered(loop, conversation(8)).request.cached_tokens == 0
    swap = loop.decoder.slots.swap
    assert swap.counts.hits == 0 and swap.cache.find(conversation(8), 100) is None


def test_a_copy_that_takes_longer_than_reading_is_not_made() -> None:
    loop = Loop(1, cache_bytes=1 << 20)
    answered(loop, conversation(8))
    answered(loop, conversation(9))
    loop.decoder.slots.swap.token_seconds = 1e-12
    answered(loop, conversation(10))
    assert loop.engine.copies == 1
    assert answered(loop, conversation(8)).request.cached_tokens == 0


def test_an_idle_slot_is_saved_restored_and_erased() -> None:
    loop = Loop(2)
    slots = loop.decoder.slots
    first = answered(loop, conversation(8))
    tokens, copy = slots.save(0)
    assert tokens == [*conversation(8), *first.tokens][:-1]
    assert slots.erase(0) == len(tokens) and loop.engine.length(0) == 0
    assert slots.restore(1, tokens, copy) == len(tokens)
    longer = answered(loop, [*tokens, 5, 6])
    assert longer.request.cached_tokens == len(tokens) and longer.request.session.slot == 1
    loop.ask(Asked(conversation(9), GREEDY, 4))
    loop.turn()
    (busy,) = (request.slot.id for request in loop.decoder.running)
    for refused in (lambda: slots.save(busy), lambda: slots.erase(busy), lambda: slots.restore(busy, tokens, copy)):
        with pytest.raises(BusyError, match="is answering"):
            refused()
    loop.finish()


def slots_of(loop: Loop, *prompts: Sequence[int]) -> list[int]:
    """Where they are answered, all at once."""
    asked = [loop.ask(Asked(prompt, GREEDY, 4)) for prompt in prompts]
    loop.turn()
    running = {id(request): request.slot.id for request in loop.decoder.running}
    found = [running[id(one.request)] for one in asked]
    loop.finish()
    return found


@pytest.mark.parametrize(("neighbours", "slots"), [(False, [2, 0]), (True, [2, 1])])
def test_answers_lie_side_by_side_where_only_neighbours_share_a_pass(neighbours: bool, slots: list[int]) -> None:
    loop = Loop(4)
    loop.engine.neighbours = neighbours
    prompts = [[4 + slot] * 20 for slot in range(4)]
    assert slots_of(loop, *prompts) == [0, 1, 2, 3]
    # The third conversation goes on, and a stranger comes.
    assert slots_of(loop, [*prompts[2], 9], [11] * 30) == slots


def test_a_neighbour_that_was_just_used_keeps_its_cache() -> None:
    loop = Loop(4)
    loop.engine.neighbours = True
    prompts = [[4 + slot] * 20 for slot in range(4)]
    assert slots_of(loop, *prompts) == [0, 1, 2, 3]
    for slot in (2, 3, 1):
        assert slots_of(loop, prompts[slot]) == [slot]
    assert slots_of(loop, prompts[0], [11] * 30) == [0, 2], "the second has a conversation that may go on"
