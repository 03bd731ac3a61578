"""A back that drafts for several sessions at once: who has what of a batch, who has a slot, and who waits for whom."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Literal, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from back.drafter import Drafter
from back.drafting import Found
from back.pacing import MIN_PAUSE
from bench.harness.models import shipped
from duo.draft.model import DraftModel
from duo.draft.policy import CHAIN, MAX_BATCH_ROWS, MAX_RIDERS, MAX_ROWS, MIN_PROBABILITY, TREE, Policy, row_capacity
from duo.draft.slots import TENURE
from duo.engines import Engine, EngineOptions, load
from duo.engines.base import TREES, Rollback
from duo.engines.cost import CostCurve
from duo.errors import ContextError, DuoError, ModelError, ProtocolError, RequestError
from duo.prefix import extend_hash
from duo.program.trace_file import of_lead
from duo.sampling.params import SamplingParams
from duo.sampling.sampler import Sampler
from duo.wire.back_side import BackSide
from duo.wire.messages import Begun, CommittedTokens, Event, Identity, Welcomed
from tests.support.desk import FLAT, Desk, DraftEngine
from tests.support.fakes import FakeModel, hash_of, params
from tests.support.slotted import CHAINS, EOS, FORWARD, LINE_END, REPLAY

SURE, UNSURE = 1, 2
"""First tokens of prompts after which a `Moody` model is sure of itself, or not."""
ME = Identity("mini", "draft", "fp", FakeModel.size)
STEEP = {1: 1.0, 2: 2.8, 8: 11.2}
LONG = [SURE, *(5 + i % 7 for i in range(199))]


@dataclass(frozen=True)
class Moody(FakeModel):
    """Sure of one session and unsure of another."""

    def logits(self, path: Sequence[int]) -> NDArray[np.float32]:
        logits = super().logits(path)
        # No token of an answer ends it.
        logits[EOS] = -10 * self.sharpness
        return logits * np.float32(20.0 if path[0] == SURE else 0.1)


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


def test_one_message_tells_of_all_sessions_and_the_next_waits_a_little() -> None:
    clock = SimpleNamespace(now=0.0)
    sent: list[tuple[float, int]] = []

    class Noting(Desk):
        def receive(self, found: Found) -> None:
            sent.append((clock.now, len(list(BackSide(ME, 0.0).guesses(found)))))
            super().receive(found)

    desk = Noting(n_ahead=64, clock=lambda: clock.now)
    for session in (1, 2, 3):
        desk.begin(session, [session, 5, 6])
    desk.work(1)
    assert sent == [(0.0, 1)]
    assert all(desk.guessed(session) for session in (1, 2, 3))
    for _ in range(3):
        clock.now += MIN_PAUSE / 8
        assert desk.work(1) == 1
    assert any(it.draft.idle for it in desk.drafting.sessions.values())
    assert len(sent) == 1
    clock.now = MIN_PAUSE
    assert desk.work(1) == 1
    assert sent[1:] == [(MIN_PAUSE, 1)]
    # Nobody has to wait for what is found last, nor for what is found first where an answer went elsewhere.
    desk.work()
    assert not any(it.found for it in desk.drafting.sessions.values())
    before, guesses = len(sent), desk.heard[1][0].tokens
    clock.now += MIN_PAUSE / 8
    desk.commit(1, [next(token for token in range(4, 12) if token not in guesses)])
    assert desk.work(1) == 1
    assert len(sent) == before + 1 and not desk.drafting.sessions[1].draft.idle
    clock.now += MIN_PAUSE / 8
    assert desk.work(1) == 1
    assert len(sent) == before + 1


def test_a_batch_is_given_up_when_the_answer_goes_elsewhere() -> None:
    """A commit that agrees, or of another session, does not disturb it."""
    desk = Desk(model=FakeModel())
    desk.begin(7, [1, 5, 6])
    desk.work(1)
    guesses = desk.heard[7][0].tokens
    wrong = next(token for token in range(FakeModel.size) if token not in guesses)

    def completes(session: int, token: int) -> bool:
        desk.engine.meanwhile = lambda: desk.model.interrupt_obsolete(session, 3, [token])
        before = len(desk.engine.passes)
        desk.work(1)
        return len(desk.engine.passes) > before

    assert completes(7, guesses[0]), "what it guessed"
    assert completes(8, wrong), "another session"
    assert not completes(7, wrong)
    desk.engine.meanwhile = lambda: None
    desk.commit(7, [wrong])
    desk.work()
    assert desk.guessed(7)
    assert desk.draft(7).answered == 1 and desk.draft(7).guessed == 0


def test_a_batch_of_several_sessions_is_given_up_when_most_of_it_is_obsolete() -> None:
    desk = Desk(model=FakeModel())
    for session in (1, 2, 3):
        desk.begin(session, [session, 5, 6])

    def elsewhere(*sessions: int) -> None:
        def hear() -> None:
            for session in sessions:
                wrong = (desk.asked[session].picks(1)[0] + 1) % FakeModel.size
                desk.model.interrupt_obsolete(session, 3, [wrong])

        desk.engine.meanwhile = hear

    elsewhere(1)
    assert desk.work(1) and len(desk.engine.passes) == 1, "two thirds of it are good"
    elsewhere(1, 1, 1)
    assert desk.work(1) and len(desk.engine.passes) == 2, "that was one session, however often it is said"
    for session in (1, 2, 3):
        desk.commit(session, [11, 11])
    rows = [desk.draft(session).rows for session in (1, 2, 3)]

    def hear() -> None:
        for session in (1, 2):
            desk.model.interrupt_obsolete(session, 5, [0])
        assert all(not desk.draft(session).obsolete(5, []) for session in (1, 2, 3))

    desk.engine.meanwhile = hear
    desk.work(1)
    assert len(desk.engine.passes) == 2, "most of it is of no use"
    assert [desk.draft(session).rows for session in (1, 2, 3)] == rows
    desk.engine.meanwhile = lambda: None
    desk.work()
    assert all(desk.guessed(session) for session in (1, 2, 3)), "and is made up for"


def test_a_long_prompt_is_read_in_pieces_while_others_draft(desk: Desk) -> None:
    desk.begin(2, [SURE, 5, 6])
    desk.work(1)
    desk.begin(1, LONG)
    while desk.draft(1).backlog:
        read, drafted = len(desk.engine.chunks), len(desk.engine.passes)
        desk.work(2)
        assert len(desk.engine.chunks) == read + 1, "one piece"
        assert len(desk.engine.passes) == drafted + 1, "and one batch of the other session"
    chunks = [count for _, count in desk.engine.chunks]
    assert len(chunks) > 3 and sum(chunks) >= len(LONG) - 1 - MAX_RIDERS
    assert max(chunks) < desk.engine.batch
    desk.work()
    assert desk.guessed(1)


def test_alone_a_prompt_is_read_as_fast_as_can_be(desk: Desk) -> None:
    desk.begin(1, LONG)
    desk.work(5)
    assert max(count for _, count in desk.engine.chunks) == desk.engine.batch


def test_of_two_prompts_the_one_that_needs_least_is_read_first(desk: Desk) -> None:
    desk.begin(1, LONG)
    desk.begin(2, [UNSURE, *LONG[:30]])
    while not desk.guessed(2):
        assert desk.work(1)
    assert desk.draft(1).unread == len(LONG) - 1


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


def test_a_session_that_outgrows_the_context_is_dropped_alone(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    end = desk.engine.context
    desk.begin(1, [SURE] + [5] * (end - 4))
    desk.begin(2, [UNSURE, 5, 6])
    desk.begin(3, [SURE] + [5] * end)
    assert set(desk.drafting.sessions) == {1, 2}, "one whose prompt does not fit is never read"
    desk.work()
    assert desk.guessed(1) and desk.guessed(2)
    assert max(e.length for e in desk.heard[1]) == end
    desk.commit(1, desk.asked[1].picks(3))
    desk.commit(1, desk.asked[1].picks(1))
    desk.commit(2, desk.asked[2].picks(1))
    desk.work()
    assert set(desk.drafting.sessions) == {2}
    assert desk.guessed(2)
    assert f"{end + 1} tokens do not fit the draft model's context of {end}" in caplog.text
    assert caplog.text.count("not drafting for this answer any more") == 2


def test_of_a_batch_that_has_no_room_the_longest_session_is_dropped(desk: Desk) -> None:
    desk.begin(1, [UNSURE, 5, 6])
    desk.begin(2, [UNSURE, 5, 6, 7])
    desk.engine.fault = ContextError("no room")
    desk.work(1)
    desk.engine.fault = None
    assert set(desk.drafting.sessions) == {1}
    desk.work()
    assert desk.guessed(1)


def test_what_one_session_asks_of_the_sampler_in_vain_does_not_concern_the_others(desk: Desk) -> None:
    class Refusing:
        def rank(self, *arguments: object) -> list[tuple[int, float]]:
            raise RequestError("this cannot be done here")

    for session in (1, 2, 3):
        desk.begin(session, [UNSURE, 5, session])
    desk.draft(2).sampler = Refusing()  # type: ignore[assignment]
    desk.work()
    assert set(desk.drafting.sessions) == {1, 3}
    assert desk.guessed(1) and desk.guessed(3)


def test_after_a_failure_nothing_is_known_and_all_begins_anew(desk: Desk) -> None:
    for session in (1, 2):
        desk.begin(session, [UNSURE, 5, session])
    desk.work(3)
    for session in (1, 2):
        desk.commit(session, [5, 6])
    desk.engine.fault = RuntimeError("out of memory")
    with pytest.raises(RuntimeError):
        desk.work(1)
    desk.drafting.forget()
    desk.engine.fault = None
    assert desk.drafting.known() == []
    for session in (1, 2):
        desk.begin(session, [UNSURE, 5, session])
    desk.work()
    assert desk.guessed(1) and desk.guessed(2)


def test_a_failure_in_the_thread_is_told_once_and_it_goes_on() -> None:
    errors: list[DuoError] = []
    failed, heard = threading.Event(), threading.Event()

    def fail(error: DuoError) -> None:
        errors.append(error)
        failed.set()

    class Noting(Desk):
        def receive(self, found: Found) -> None:
            super().receive(found)
            heard.set()

    desk = Noting(model=Moody())
    desk.heard[1] = []
    drafter = Drafter(desk.drafting, fail)
    drafter.start()
    try:
        desk.engine.fault = RuntimeError("out of memory")
        events: list[Event] = [
            Begun(1, SamplingParams(temperature=0.0), 3),
            CommittedTokens(1, 0, [UNSURE, 5, 6], False),
        ]
        for event in events:
            drafter.hear(event)
        assert failed.wait(30.0) and desk.drafting.known() == []
        desk.engine.fault = None
        for event in events:
            drafter.hear(event)
        assert heard.wait(30.0)
    finally:
        drafter.stop()
    (error,) = errors
    assert isinstance(error, ProtocolError) and str(error) == "drafting failed: out of memory"


def test_after_a_new_stream_all_is_said_again(desk: Desk) -> None:
    for session in (1, 2):
        desk.begin(session, [UNSURE, *LONG[:40], session])
    desk.work()
    said, read = {session: len(desk.heard[session]) for session in (1, 2)}, desk.engine.read
    assert [session for session, _ in desk.drafting.known()] == [1, 2]  # for the Hello
    desk.drafting.hear(Welcomed("back", "target", FakeModel.size))
    desk.heard = {1: [], 2: []}
    desk.work()
    assert {session: len(desk.heard[session]) for session in (1, 2)} == said
    assert desk.engine.read == read, "but not read again"


def test_nothing_is_drafted_after_the_end_of_an_answer_unless_it_goes_on_there() -> None:
    @dataclass(frozen=True)
    class Ending(FakeModel):
        def logits(self, path: Sequence[int]) -> NDArray[np.float32]:
            logits = super().logits(path)
            logits[EOS] = 100.0 if len(path) == 5 else -100.0
            return logits

    desk = Desk(model=Ending(doubt=0.0))
    it = desk.begin(1, [EOS, 5, EOS])
    desk.work()
    assert desk.guessed(1), "a prompt may end with any token"
    lengths = {e.length for e in desk.heard[1]}
    assert max(lengths) == 5 and any(EOS in e.tokens for e in desk.heard[1])
    desk.commit(1, [desk.heard[1][0].tokens[0]])
    desk.work()
    desk.commit(1, [t for e in desk.heard[1] if e.hash == hash_of(it.tokens) for t in e.tokens][:1])
    desk.work()
    desk.commit(1, [EOS])
    assert desk.work() == 0
    desk.commit(1, [5])
    desk.work()
    assert desk.guessed(1) and not desk.draft(1).eos


def test_a_chain_has_a_line_for_each_session() -> None:
    desk = Desk(model=FakeModel(0.0), policy=CHAIN)
    for session in (1, 2, 3):
        desk.begin(session, [session, 5, 6])
    desk.work()
    for it in desk.heard.values():
        assert all(len(e.tokens) == 1 for e in it)
        assert len({e.length for e in it}) == len(it)
    assert max(len({row.slot for row in rows}) for rows in desk.engine.passes) == 3


@pytest.mark.parametrize("rollback", [CHAINS, REPLAY])
def test_a_model_without_branches_grows_a_tree_line_by_line(rollback: Rollback) -> None:
    """No row outlives its pass, so each pass reads the line to the place that it expands."""
    desk = Desk(n_ahead=16, engine=DraftEngine(Moody(0.4), 2, rollback, 16))
    for session, first in ((1, SURE), (2, UNSURE)):
        desk.begin(session, [first, 5, 6])
    desk.work()
    assert max(len({row.slot for row in rows}) for rows in desk.engine.passes) == 2, "one pass serves both"
    assert not any(part.rows for part in desk.engine.parts)
    sure, unsure = ([e.length for e in desk.heard[session]] for session in (1, 2))
    assert max(sure) - 3 == rollback.depth - 1, "as far as the model goes back"
    assert len(set(unsure)) < len(unsure), "and alternatives where it is unsure"
    desk.commit(1, desk.asked[1].picks(2))
    desk.work()
    assert desk.guessed(1)


def test_a_model_that_does_not_go_back_cannot_draft() -> None:
    engine = cast(Engine, DraftEngine(FakeModel(), 1, FORWARD))
    with of_lead(None) as trace, pytest.raises(ModelError, match=r"^fake cannot draft: on fake .*; choose another"):
        DraftModel(engine, CostCurve(FLAT), 8, TREE, trace, "drafter")


def test_little_room_is_shared_and_leaves_some_for_what_is_drafted() -> None:
    """As where each row needs a state of its own."""
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
    """Two prompts begin alike, but where they part the slot has no checkpoint."""
    desk = Desk(engine=DraftEngine(Moody(), 2, TREES, spacing=50))
    desk.begin(1, LONG[:100])
    desk.work()
    before = desk.engine.read
    desk.begin(2, [*LONG[:70], 9, 9, 9])
    desk.work()
    assert desk.engine.shared == 50 and desk.engine.read - before == 73 - 1 - 50
    assert desk.guessed(2)


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_any_schedule_of_sessions_keeps_the_contract_and_guesses_at_the_right_places(data: st.DataObject) -> None:
    """The engine checks every call. What is said is what the draft model guesses there, once in a stream, and in the
    end there are guesses for every answer."""
    slots, n_ahead = data.draw(st.sampled_from([1, 2, 4]), "slots"), data.draw(st.sampled_from([2, 8, 40]), "n_ahead")
    rollback = data.draw(st.sampled_from([TREES, CHAINS, REPLAY]), "rollback")
    spacing = data.draw(st.sampled_from([0, 16]), "where a slot can be cut")
    rows = data.draw(st.sampled_from([None, None, 3 * slots, 40]), "room")
    desk = Desk(n_ahead=n_ahead, engine=DraftEngine(FakeModel(0.4), slots, rollback, spacing, rows))
    sampling = data.draw(params())
    tokens, new = st.integers(4, FakeModel.size - 1), 1
    beginning = data.draw(st.lists(tokens, min_size=1, max_size=60), "what prompts have in common")
    for _ in range(data.draw(st.integers(1, 40), "steps")):
        act = data.draw(st.sampled_from(["begin", "work", "work", "work", "agree", "agree", "any", "end", "give up"]))
        session = data.draw(st.sampled_from(sorted(desk.asked)), "session") if desk.asked else 0
        if act == "begin" and len(desk.asked) < 6:
            shared = beginning[: data.draw(st.integers(0, len(beginning)))]
            desk.begin(new, [*shared, *data.draw(st.lists(tokens, min_size=1, max_size=20))], sampling)
            new += 1
        elif act == "work":
            desk.work(data.draw(st.integers(1, 6)))
        elif act == "agree" and session:
            desk.commit(session, desk.asked[session].picks(data.draw(st.integers(1, 4))))
        elif act == "any" and session:
            desk.commit(session, data.draw(st.lists(tokens, min_size=1, max_size=3)))
        elif act == "give up":
            desk.engine.meanwhile = desk.engine.interrupt
            desk.work(1)
            desk.engine.meanwhile = lambda: None
        elif act == "end" and session:
            desk.end(session)
            assert sum(bool(part.rows) for part in desk.engine.parts) <= len(desk.seated())
    desk.work()
    for session, it in desk.asked.items():
        assert desk.guessed(session) or it.tokens[-1] == EOS or len(it.tokens) > desk.engine.context
        places = [(e.length, e.hash) for e in desk.heard[session]]
        assert len(set(places)) == len(places), "nothing is said twice"
        check(desk, session)
    assert all(len(rows) <= MAX_BATCH_ROWS for rows in desk.engine.passes)


def check(desk: Desk, session: int) -> None:
    """What was said of the places along the answer is what the draft model guesses there."""
    it = desk.asked[session]
    sampler, said = Sampler(it.params, it.prompt), {e.hash: e for e in desk.heard[session]}
    for end in range(len(it.prompt), len(it.tokens) + 1):
        path = it.tokens[:end]
        if (e := said.get(hash_of(path))) is not None:
            assert e.length == end
            if not it.params.temperature:  # with noise the order goes by what had been learned by then
                ranked = sampler.rank(desk.engine.parts[0].model.logits(path), path[len(it.prompt) :], len(e.tokens))
                assert list(e.tokens) == [token for token, _ in ranked]


@pytest.mark.parametrize("runtime", ["llamacpp", "transformers"])
def test_a_real_model_guesses_for_each_of_several_sessions_what_it_guesses_alone(
    runtime: Literal["llamacpp", "transformers"],
) -> None:
    about = "The copyfile() function of the module shutil copies the contents of the file src to a file named dst. "
    texts = (about + "If dst", "Return the number of", about + "The metadata of the file", "Raises a")
    options = EngineOptions(threads=1, context=256, slots=3, tree_rows=row_capacity(3))
    engine = load(shipped("draft", runtime), runtime, options)
    prompts = dict(enumerate(map(engine.vocabulary.encode, texts)))
    try:

        def likeliest(desk: Desk, session: int) -> list[int]:
            """The likeliest line."""
            said, line = {e.hash: e.tokens for e in desk.heard[session]}, list(prompts[session])
            while (tokens := said.get(hash_of(line))) is not None:
                line.append(tokens[0])
            return line[len(prompts[session]) :]

        def lines(*sessions: int) -> dict[int, list[int]]:
            desk = Desk(real=engine, n_ahead=8)
            for session in sessions:
                desk.begin(session, prompts[session])
            desk.work()
            found = {session: likeliest(desk, session) for session in sessions}
            for session in sessions:
                desk.commit(session, found[session][:2])
            desk.work()
            assert all(desk.guessed(session) for session in sessions)
            for session in sessions:
                found[session] = likeliest(desk, session)
                desk.end(session)
            return found

        alone = {session: lines(session)[session] for session in prompts}
        together = lines(*prompts)
        for session, line in alone.items():
            # How far a line goes depends on what was learned of the model's claims by then, from all sessions.
            assert len(line) >= 3 and together[session][:3] == line[:3]
    finally:
        engine.close()


def test_another_padding_of_the_same_vocabulary(desk: Desk) -> None:
    """What only the target has is read as something harmless; what only the draft has is not guessed."""
    size = FakeModel.size
    desk.drafting.hear(Welcomed("back", "target", size + 8))
    for session in (1, 2):
        desk.begin(session, [UNSURE, 5, session])
    desk.work()
    desk.commit(1, [size + 3])
    desk.commit(2, [6])
    desk.work()
    desk.commit(1, [5])
    desk.work()
    assert [session for session, _ in desk.drafting.known()] == [1, 2]
    assert desk.guessed(1) and desk.guessed(2)
    assert any(row.token == LINE_END for rows in desk.engine.passes for row in rows)
    desk.drafting.hear(Welcomed("back", "target", size - 2))
    desk.begin(3, [UNSURE, 5, 7], SamplingParams(temperature=0.0, logit_bias={size - 1: 100.0}))
    desk.work()
    assert desk.guessed(3)
    assert max(token for of in desk.heard[3] for token in of.tokens) < size - 2


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_what_means_something_else_to_the_target_is_not_guessed_and_harms_nothing(temperature: float) -> None:
    """Whatever the sampling, in the prompt, in the answer and with a bias; sampling over the whole vocabulary."""
    desk, differing = Desk(model=FakeModel(0.4)), (0, 6, 7)
    desk.drafting.hear(Welcomed("back", "target", FakeModel.size, differing))
    sampled = SamplingParams(temperature, repetition_penalty=1.3, presence_penalty=0.5, logit_bias={6: 50.0, 8: 0.5})
    desk.begin(1, [6, 0, 5, *LONG[:30]], sampled)
    for token in (7, 9, 0, FakeModel.size + 1000, 8):
        desk.commit(1, [token])
        desk.work()
        assert desk.guessed(1)
    guessed = {token for of in desk.heard[1] for token in of.tokens}
    assert guessed and not guessed & set(differing)
    read = {row.token for rows in desk.engine.passes for row in rows}
    assert 0 not in read and max(read) < FakeModel.size, "what it lacks is read as something that it has"
    # Another lead's target, which has the same vocabulary as the draft.
    desk.drafting.hear(Welcomed("back", "other target", FakeModel.size))
    desk.begin(2, [5, *LONG[:30]], SamplingParams(temperature, logit_bias={6: 50.0}))
    desk.work()
    assert 6 in {token for of in desk.heard[2] for token in of.tokens}


def test_what_the_hello_did_not_name_is_forgotten(desk: Desk) -> None:
    """The last stream's news may be heard after the Hello; the lead will never say that such a session has ended."""
    desk.begin(1, [UNSURE, *LONG[:40], 1])
    desk.work()
    desk.drafting.known()
    desk.begin(2, [UNSURE, *LONG[:40], 2])
    desk.drafting.hear(Welcomed("back", "target", FakeModel.size))
    assert [session for session, _ in desk.drafting.known()] == [1]


def test_more_sessions_than_slots_come_to_rest(desk: Desk) -> None:
    """Who can do nothing with a slot takes it from nobody."""
    for session in range(1, 3 * desk.engine.slots):
        desk.begin(session, [UNSURE, *LONG[:20], session])
    desk.work()
    read = desk.engine.read
    desk.work()
    assert desk.engine.read == read
