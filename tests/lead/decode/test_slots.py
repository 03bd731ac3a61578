"""Which slot an answer gets, and what its cache saves."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

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
