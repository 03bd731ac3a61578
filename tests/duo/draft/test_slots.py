"""Which session has a slot, and what is read into it."""

from __future__ import annotations

import pytest

from duo.draft.policy import MAX_RIDERS, MAX_ROWS, Policy, row_capacity
from duo.draft.slots import TENURE
from duo.engines.base import TREES
from tests.support.desk import LONG, SURE, UNSURE, Desk, DraftEngine, Moody
from tests.support.fakes import FakeModel
from tests.support.slotted import EOS


@pytest.fixture
def desk() -> Desk:
    return Desk(model=Moody())


def test_a_beginning_that_sessions_share_is_read_once(desk: Desk) -> None:
    for session in (1, 2, 3):
        desk.begin(session, [*LONG, session])
    desk.work()
    assert desk.engine.read < len(LONG) + MAX_RIDERS
    assert desk.engine.shared >= 2 * (len(LONG) - MAX_RIDERS)
    assert all(desk.guessed(session) for session in (1, 2, 3))


def test_a_new_session_goes_on_from_what_an_old_one_left_behind(desk: Desk) -> None:
    desk.begin(1, LONG)
    desk.begin(2, [UNSURE, 5, 6])
    desk.work()
    for _ in range(5):
        desk.commit(1, desk.asked[1].picks(3))
        desk.work()
    known = desk.asked[1].tokens
    desk.end(1)
    assert not desk.engine.parts[0].rows or desk.seated() == {2}
    read = desk.engine.read
    desk.begin(3, [*known, 7, 8])
    desk.work()
    assert desk.engine.read == read, "what an answer ended with rides along"
    assert desk.guessed(3)


def test_the_slot_of_an_ended_session_is_taken_first_and_then_of_the_one_with_least_to_do() -> None:
    desk = Desk(slots=2, model=Moody())
    for session, first in ((1, SURE), (2, UNSURE)):
        desk.begin(session, [first, 5, 6])
    desk.work()
    assert desk.seated() == {1, 2}
    desk.end(1)
    desk.begin(3, [SURE, 8, 8])
    desk.work()
    assert desk.seated() == {2, 3}
    desk.commit(3, [9])  # there is something to do for it, and nothing for the other
    desk.begin(4, [SURE, 7, 7])
    desk.work(1)
    assert desk.seated() == {3, 4}
    desk.work()
    assert desk.guessed(3) and desk.guessed(4)


def test_sessions_that_have_no_slot_take_turns_and_none_is_forgotten() -> None:
    desk = Desk(slots=2, model=Moody())
    for session in range(1, 6):
        desk.begin(session, [UNSURE if session % 2 else SURE, 5, session])
    for _ in range(4):
        desk.work()
        assert len(desk.seated()) == 2
        assert all(desk.guessed(session) for session in desk.asked)
        for session in desk.asked:
            desk.commit(session, [5, 5 + session])


@pytest.mark.parametrize("slots", [8, 40])
def test_however_many_sessions_there_are_each_has_room_for_some_rows(slots: int) -> None:
    desk = Desk(slots)
    for session in range(slots):
        desk.begin(session, [1 + session % 11, 5, *[6] * (session % 10)])
        desk.work(1)
    for _ in range(3):
        desk.work()
        assert all(desk.guessed(session) for session in desk.asked)
        for session in desk.asked:
            desk.commit(session, [5])


def test_sessions_that_hold_many_rows_make_room_for_new_ones() -> None:
    desk = Desk(policy=Policy(floor=0.0), n_ahead=60)
    for session in (1, 2):
        desk.begin(session, [session, 5, 6])
    desk.work()
    assert [desk.draft(session).rows for session in (1, 2)] == [MAX_ROWS] * 2
    for session in (3, 4):
        desk.begin(session, [session, 5, 6])
        desk.work()  # the engine checks that there is room
        assert desk.guessed(session)
    assert all(desk.draft(session).rows <= row_capacity(4) // 4 for session in desk.asked)
    desk.commit(1, desk.asked[1].picks(1))
    desk.work()
    assert desk.guessed(1)
    for session in (2, 3, 4):
        desk.end(session)
    desk.commit(1, [5])
    desk.work()
    assert desk.draft(1).rows > row_capacity(4) // 4, "whoever is left has it all again"


def test_who_has_just_been_read_keeps_the_slot_until_it_was_worth_that() -> None:
    desk = Desk(slots=1, model=FakeModel(0.4, sharpness=20.0), n_ahead=60)
    desk.begin(1, LONG)
    desk.work(len(LONG) // desk.engine.batch + 2)
    desk.begin(2, [SURE, 5, 6])
    rows = [0]
    while desk.seated() == {1}:
        assert desk.work(1)
        rows.append(desk.draft(1).rows)
    assert max(rows) >= len(LONG) // TENURE > rows[2], "though there was more to be gained from the other"
    assert desk.draft(1).weight > 0.0
    assert desk.seated() == {2}
    desk.work()
    assert desk.guessed(1) and desk.guessed(2)


def test_what_was_guessed_for_a_session_that_lost_its_slot_is_not_guessed_again() -> None:
    desk = Desk(slots=1, model=Moody())
    desk.begin(1, [SURE, 5, 6])
    desk.work()
    desk.begin(2, [SURE, 7, 7])
    desk.work()
    desk.commit(1, desk.asked[1].picks(2))
    desk.work()
    places = [(e.length, e.hash) for e in desk.heard[1]]
    assert len(set(places)) == len(places)
    assert max(length for length, _ in places) == 3 + 2 + 15, "it went on from there"


def test_little_room_is_shared_and_leaves_some_for_what_is_drafted() -> None:
    """As in an engine with a state for each row."""
    desk = Desk(engine=DraftEngine(FakeModel(0.4), 4, rows=12))
    for session in range(1, 5):
        desk.begin(session, [4 + session, 5, 6])
    desk.work()
    for count in (3, 6, 1, 8, 2):
        for session in desk.asked:
            desk.commit(session, desk.asked[session].picks(count))
        desk.work()
        assert all(desk.guessed(session) or it.tokens[-1] == EOS for session, it in desk.asked.items())


def test_what_cannot_be_cut_back_to_is_read_again() -> None:
    """Two prompts begin alike, but the slot has no checkpoint where they part."""
    desk = Desk(engine=DraftEngine(Moody(), 2, TREES, spacing=50))
    desk.begin(1, LONG[:100])
    desk.work()
    before = desk.engine.read
    desk.begin(2, [*LONG[:70], 9, 9, 9])
    desk.work()
    assert desk.engine.shared == 50 and desk.engine.read - before == 73 - 1 - 50
    assert desk.guessed(2)


def test_more_sessions_than_slots_come_to_rest(desk: Desk) -> None:
    """A session that can do nothing with a slot takes none."""
    for session in range(1, 3 * desk.engine.slots):
        desk.begin(session, [UNSURE, *LONG[:20], session])
    desk.work()
    read = desk.engine.read
    desk.work()
    assert desk.engine.read == read
