"""One step of all answers: what is verified, what is heard, and what may go wrong."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest

from bench.harness.processes import PATIENCE
from duo.engines import Chunk, Logits, Row
from duo.engines.base import Rollback
from duo.engines.cost import CostCurve
from duo.engines.replay import Replayed
from duo.guesses import Expansion
from duo.prefix import Prefix
from duo.sampling.params import SamplingParams
from lead.decode import step as decode_step
from lead.decode.inbox import Message
from lead.decode.session import Session
from lead.plan.arrivals import Arrivals
from lead.plan.limits import Limits
from lead.plan.planner import Planner
from lead.plan.tree import Place
from lead.plan.verify_all import VerifyAll
from tests.support.fakes import SIZE
from tests.support.loop import GREEDY, MODEL, STEEP, Asked, Fixed, Loop, breaks, talkative
from tests.support.slotted import CHAINS, REPLAY, SlottedEngine


@pytest.fixture(autouse=True)
def _all_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever has come, however slow the machine."""
    monkeypatch.setattr(decode_step, "MIN_HEARING", PATIENCE)


@pytest.mark.parametrize("rollback", [CHAINS, REPLAY])
def test_chains_are_verified_as_far_as_the_model_goes_back(rollback: Rollback) -> None:
    limits = Limits(draft_max=16, rows=32, rollback=rollback)
    loop = Loop(1, VerifyAll(limits), engine=SlottedEngine(MODEL, 1, rollback, 16))
    asked = loop.ask(talkative())
    loop.turn()
    steps = list[int]()
    while loop.decoder.running:
        loop.guess(doubt=0.5 * (len(steps) % 2), far=9)
        before = len(asked.tokens)
        loop.turn()
        steps.append(len(asked.tokens) - before)
    assert asked.tokens == asked.expected
    assert max(steps) == 1 + rollback.depth and loop.engine.dropped


def test_what_a_replay_takes_is_told_apart_from_the_forward_pass() -> None:
    told: list[tuple[int, Replayed]] = []

    class Watched(VerifyAll):
        def finished(self, now: float, rows: int, *rest: Any) -> None:
            told.append((rows, rest[4]))

    loop = Loop(1, Watched(Limits(rollback=REPLAY)), engine=SlottedEngine(MODEL, 1, REPLAY))
    asked = loop.ask(talkative())
    loop.turn()
    loop.guess(doubt=0.0, far=2)
    loop.turn()
    (entry,) = loop.ledger.values()
    right = asked.expected[len(asked.tokens)]
    after = Prefix([*entry.prefix.tokens, right])
    wrong = (asked.expected[len(asked.tokens) + 1] + 1) % SIZE
    line = [
        Expansion(len(entry.prefix), entry.prefix.hash, [right], [0.9]),
        Expansion(len(after), after.hash, [wrong], [0.9]),
    ]
    loop.decoder.inbox.put(Message("back", 0.0, [(entry.session, line)]))
    loop.turn()
    loop.finish()
    assert [(rows, it.saved, it.rows, it.seconds > 0.0) for rows, it in told[:4]] == [
        (1, 0, [], False), (3, 1, [], False), (3, 1, [2], True), (1, 0, [], False)
    ]  # fmt: skip


def test_answers_share_forward_passes() -> None:
    loop = Loop(4)
    asked = [loop.ask(Asked([4 + i], SamplingParams(seed=i), 6)) for i in range(4)]
    loop.finish()
    assert {0, 1, 2, 3} in loop.engine.widths
    assert all(one.tokens == one.expected for one in asked)


def test_answers_take_turns_where_a_second_row_is_dear() -> None:
    loop = Loop(2, Planner(Fixed(STEEP), Limits(draft_max=2, rows=32)))
    asked = [loop.ask(talkative()) for _ in range(2)]
    loop.turn()
    while not any(one.ended for one in asked):
        loop.turn()
    assert len(loop.engine.widths) > 40 and {0, 1} not in loop.engine.widths
    assert all(one != two for one, two in pairwise(loop.engine.widths))
    loop.finish()
    assert all(one.tokens == one.expected for one in asked)


def test_newcomers_do_not_push_in_where_answers_take_turns() -> None:
    """Theirs are prompts that need no reading, and answers of one token."""
    loop = Loop(2, Planner(Fixed(STEEP), Limits(draft_max=2, rows=32)))
    long = loop.ask(talkative())
    for number in range(100):
        loop.ask(Asked([4 + number % 8], GREEDY, 1))
    for _ in range(100):
        loop.turn()
    assert long.ended and long.tokens == long.expected


def test_what_comes_while_a_prompt_is_read_says_nothing_of_how_long_a_back_takes() -> None:
    """It need not have waited for anything, and nobody has answered for a minute perhaps."""
    told: list[bool | None] = []

    def heard(
        arrivals: Arrivals, now: float, back: str, committed: float, surprised: bool, found: Sequence[Place]
    ) -> None:
        told.append(surprised)

    loop = Loop(1, Planner(CostCurve({1: 1.0, 8: 1.1}), Limits(draft_max=8, rows=32)))
    loop.ask(Asked([5, 6, 7], GREEDY, 4))
    forward = loop.engine.forward

    def meanwhile(rows: Sequence[Row], chunks: Sequence[Chunk] = ()) -> Logits:
        loop.guess(doubt=0.0, came=time.perf_counter())
        return forward(rows, chunks)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Arrivals, "heard", heard)
        patch.setattr(loop.engine, "forward", meanwhile)
        loop.turn()
    assert told == [False]


def test_an_answer_that_fails_does_not_spoil_a_prompt_that_is_read_beside_it() -> None:
    loop = Loop(2)
    bad = loop.ask(talkative())
    loop.turn()
    other = loop.ask(Asked([4 + i % 8 for i in range(120)], GREEDY, 6))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "verify", breaks)
        loop.turn()
    assert bad.ended and "broken" in str(bad.error)
    loop.finish()
    assert other.error is None and other.tokens == other.expected


def test_after_a_forward_pass_that_failed_the_next_questions_are_answered() -> None:
    loop = Loop(2)
    asked = [loop.ask(Asked([5, 6], GREEDY, 8)), loop.ask(Asked([7, 6], GREEDY, 8))]
    loop.turn()
    loop.engine.fault = ZeroDivisionError("broken")
    loop.turn()
    loop.engine.fault = None
    assert all(one.ended and "broken" in str(one.error) for one in asked)
    again = [loop.ask(Asked([5, 6], GREEDY, 8)), loop.ask(Asked([7, 6], GREEDY, 8))]
    loop.finish()
    assert all(one.tokens == one.expected for one in again)


def test_backs_that_say_much_hold_up_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """What there is no time for is heard later, and all are heard alike, whoever else is there and silent."""
    monkeypatch.setattr(decode_step, "MIN_HEARING", 0.0)
    loop = Loop(1)
    asked = loop.ask(Asked([5], GREEDY, 6))
    box = loop.decoder.inbox
    for back in ("one", "silent", "also silent", "two"):
        box.put(Message(back, 0.0, []))
    list(box.take())
    for number in range(30):
        for back in ("one", "two"):
            box.put(Message(back, float(number), [(1, [])]))
    loop.turn()
    left = [(message.back, message.came) for message in box.take()]
    assert 60 - 2 * 2 <= len(left) < 60, "one a time, and twice in a step"
    assert sorted(left[-2:]) == [("one", 29.0), ("two", 29.0)]
    assert abs(sum(back == "one" for back, _ in left) - len(left) / 2) <= 0.5
    loop.finish()
    assert asked.tokens == asked.expected


def test_a_long_message_is_heard_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_step, "MIN_HEARING", 0.0)
    loop = Loop(1)
    asked = loop.ask(talkative())
    loop.turn()
    (entry,) = loop.ledger.values()
    prefix = entry.prefix
    one = Expansion(len(prefix), prefix.hash, [5], [0.9])
    other = Expansion(len(prefix), prefix.hash, [6], [0.1])
    loop.decoder.inbox.put(Message("back", 0.0, [(entry.session, [one, other])]))
    held: list[set[int]] = []
    forward = loop.engine.forward

    def meanwhile(rows: Sequence[Row], chunks: Sequence[Chunk] = ()) -> Logits:
        held.append(set(asked.request.session.tree.root.children))
        return forward(rows, chunks)

    with monkeypatch.context() as patch:
        patch.setattr(loop.engine, "forward", meanwhile)
        loop.turn()
    assert held == [{5}]
    loop.finish()
    assert asked.tokens == asked.expected


def test_guesses_for_other_sessions_do_no_harm() -> None:
    loop = Loop(2)
    asked = loop.ask(Asked([5], GREEDY, 6))
    loop.decoder.inbox.put(Message("back", 0.0, [(12345, [])]))
    loop.decoder.inbox.put(Message("back", 0.0, [(99, [Expansion(1, 1, [5], [0.5])]), (98, [])]))
    loop.finish()
    assert asked.tokens == asked.expected
