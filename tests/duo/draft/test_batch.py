"""The places that one forward pass expands, over several sessions."""

from __future__ import annotations

from collections import Counter

import pytest

from duo.draft.policy import CHAIN, MIN_PROBABILITY
from duo.prefix import extend_hash
from tests.support.desk import STEEP, SURE, UNSURE, Desk, Moody
from tests.support.fakes import FakeModel, hash_of


@pytest.fixture
def desk() -> Desk:
    return Desk(model=Moody())


def test_the_likeliest_places_of_all_sessions_are_expanded_first(desk: Desk) -> None:
    for session, first in ((1, SURE), (2, UNSURE)):
        desk.begin(session, [first, 5, 6])
    waiting = {hash_of(it.tokens): 1.0 for it in desk.asked.values()}
    together = 0
    while desk.drafting.work():
        found = [e for it in desk.heard.values() for e in it]
        found += [e for it in desk.drafting.sessions.values() for e in it.found]
        found = [e for e in found if e.hash in waiting]
        reached = [waiting[e.hash] for e in found if e.hash in waiting]
        together += len({row.slot for row in desk.engine.passes[-1]}) == 2
        assert max(reached) == pytest.approx(max(waiting.values()))
        for e in sorted(found, key=lambda e: e.length):
            path = waiting.pop(e.hash)
            for token, chance in zip(e.tokens, e.probabilities, strict=True):
                if e.length - 3 < 15:
                    waiting[extend_hash(e.hash, token)] = path * chance
    assert together > 2, "one forward pass serves both"
    assert max(waiting.values(), default=0.0) < MIN_PROBABILITY, "what is worth it has been expanded"


def test_where_rows_are_dear_the_unsure_session_does_not_hold_up_the_sure_one() -> None:
    desk = Desk(model=Moody(), cost=STEEP)
    for session, first in ((1, SURE), (2, UNSURE)):
        desk.begin(session, [first, 5, 6])
    desk.work(12)
    slots = [{row.slot for row in rows} for rows in desk.engine.passes]
    assert set.union(*slots[:2]) == {0, 1}, "each has a guess first"
    assert slots[2:] == [{0}] * 10, "then the sure one goes ahead"
    desk.commit(2, desk.asked[2].picks(1))
    desk.commit(2, [9 if desk.asked[2].picks(1) != [9] else 8])
    desk.work(1)
    assert {row.slot for row in desk.engine.passes[-1]} == {1}, "an answer for which there is no guess comes before"


def test_sessions_that_count_the_same_take_turns() -> None:
    desk = Desk(model=Moody(sharpness=1e6), cost=STEEP)
    for session in (1, 2, 3):
        desk.begin(session, [SURE, 5, session])
    desk.work(20)
    rows = Counter(row.slot for rows in desk.engine.passes for row in rows)
    assert len(rows) == 3 and max(rows.values()) - min(rows.values()) <= 1


def test_a_chain_has_a_line_for_each_session() -> None:
    desk = Desk(model=FakeModel(0.0), policy=CHAIN)
    for session in (1, 2, 3):
        desk.begin(session, [session, 5, 6])
    desk.work()
    for it in desk.heard.values():
        assert all(len(e.tokens) == 1 for e in it)
        assert len({e.length for e in it}) == len(it)
    assert max(len({row.slot for row in rows}) for rows in desk.engine.passes) == 3
