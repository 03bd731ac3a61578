"""What the lead hears from a back and sends to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from duo.errors import ProtocolError, RefusedError
from duo.guesses import ALONE, Expansion, Share
from duo.prefix import Prefix
from duo.v1 import duo_pb2 as pb
from duo.wire.back_side import BackSide
from duo.wire.codec import status_to_wire
from duo.wire.lead_side import LeadSide
from duo.wire.ledger import Ledger
from duo.wire.messages import (
    MAX_CHILDREN,
    MAX_COMMIT_TOKENS,
    MAX_EXPANSIONS,
    MAX_KNOWN,
    MAX_MESSAGE_BYTES,
    MAX_WAITING_PINGS,
    VERSION,
    Begun,
    CommittedTokens,
    Ended,
    Welcomed,
)
from tests.support.wire import (
    BACK,
    LEAD,
    SAMPLING,
    SIZE,
    Back,
    agree,
    drain,
    entry,
    expansion,
    hello,
    joined,
    one_line,
    refused,
)


def test_a_back_hears_everything_in_order_and_only_once() -> None:
    ledger, back = Ledger(), Back()
    ledger[1] = entry(1, 5)
    side = joined(ledger, back)
    drain(side, back)
    assert back.events == [
        Welcomed("mini", "target-13m", SIZE),
        Begun(1, SAMPLING, 5),
        CommittedTokens(1, 0, ledger[1].prefix.tokens[:5], False),
    ]
    assert drain(side, back) == []
    ledger[1].prefix.extend([9, 8])
    drain(side, back)
    assert back.events[3:] == [CommittedTokens(1, 5, [9, 8], False)]
    ledger[2] = entry(2, 3)
    del ledger[1]
    drain(side, back)
    assert back.events[4] == Ended(1)
    agree(ledger, back)
    assert drain(side, back) == []


@pytest.mark.parametrize("prompt", [3 * MAX_COMMIT_TOKENS + 17, 10], ids=["prompt", "answer under way"])
def test_a_long_session_goes_in_bounded_messages_and_is_complete_only_at_the_end(prompt: int) -> None:
    ledger, back = Ledger(), Back()
    length = 3 * MAX_COMMIT_TOKENS + 17
    ledger[1] = entry(1, length, prompt)
    side = joined(ledger, back)
    complete = []
    for message in side.send(0.0):
        assert len(message) <= MAX_MESSAGE_BYTES
        back.hear(message)
        if 1 in back.drafts and back.drafts[1].prefix.tokens:
            complete.append(back.drafts[1].complete)
    assert complete == [False, False, False, True]
    assert back.tokens == length
    agree(ledger, back)


def test_a_back_that_comes_back_is_sent_only_what_it_lacks() -> None:
    ledger, back = Ledger(), Back()
    for session in (1, 2, 3):
        ledger[session] = entry(session, 5000 + session)
    drain(joined(ledger, back), back)
    had, back.tokens = back.tokens, 0
    assert had == 15006
    # While it is away: one ends, one goes on, one begins, and one stands still.
    del ledger[1]
    ledger[2].prefix.extend([5, 6, 7])
    ledger[4] = entry(4, 10)
    back.events.clear()
    side = joined(ledger, back)
    messages = drain(side, back)
    assert back.tokens == 13
    assert Ended(1) in back.events
    assert sum(len(message) for message in messages) < 1000
    agree(ledger, back)
    assert drain(side, back) == []


def test_a_back_that_holds_something_else_is_sent_all_of_it() -> None:
    """A lead does not use a session's number again after a restart. Should it happen, the hash tells."""
    ledger, back = Ledger(), Back()
    ledger[1] = entry(1, 50)
    drain(joined(ledger, back), back)
    for other in (Prefix([1] * 50), Prefix([1] * 20), entry(1, 49).prefix):
        ledger[1] = replace(ledger[1], prefix=other)
        side = LeadSide(LEAD, ledger, 0.0)
        side.receive(back.connect(), 0.0)
        commits = [m for m in map(pb.LeadMessage.FromString, side.send(0.0)) if m.HasField("commit")]
        assert [m.commit.start for m in commits] == [0]
        assert list(commits[0].commit.tokens) == other.tokens


def test_a_session_that_ends_while_a_returning_back_is_greeted_is_ended_for_it() -> None:
    ledger, back = Ledger(), Back()
    ledger[1], ledger[2] = entry(1, 5), entry(2, 5)
    drain(joined(ledger, back), back)
    del ledger[1]
    side = joined(ledger, back)
    messages = side.send(0.0)
    back.hear(next(messages))  # Welcome
    back.hear(next(messages))  # End of 1: and now, before anything is said of 2, it ends too
    del ledger[2]
    for message in messages:
        back.hear(message)
    drain(side, back)
    assert back.drafts == {}


def test_nothing_piles_up_for_a_back_that_does_not_read() -> None:
    ledger, back = Ledger(), Back()
    ledger[1] = entry(1, 10)
    side = joined(ledger, back)
    messages = side.send(0.0)
    back.hear(next(messages))
    # The write of the second message hangs. A thousand answers come and go, and one goes on.
    for session in range(2, 1002):
        ledger[session] = entry(session, 10)
        ledger[1].prefix.extend([session % SIZE])
        if session > 2:
            del ledger[session - 1]
    assert len(side.sent) + len(side.known) == 0
    # It reads again: it hears of what is open now, each once, and of nothing in between.
    rest = list(messages) + list(side.send(0.0))
    for message in rest:
        back.hear(message)
    agree(ledger, back)
    assert len(rest) <= MAX_WAITING_PINGS
    assert back.tokens == 1020


def test_each_back_is_told_its_turn_where_several_divide_the_work() -> None:
    """A back that comes later has no share and drafts as if it were alone."""
    ledger = Ledger()
    ledger[1] = replace(entry(1, 5), backs=["quick", BACK.name])
    back = Back()
    side = joined(ledger, back)
    told = [back.side.receive(message, 0.0) for message in side.send(0.0)]
    assert [event.share for event in told if isinstance(event, Begun)] == [Share(1, 2)]
    ledger[1] = replace(entry(1, 5), backs=["quick", "slow"])
    back = Back()
    side = joined(ledger, back)
    told = [back.side.receive(message, 0.0) for message in side.send(0.0)]
    assert [event.share for event in told if isinstance(event, Begun)] == [ALONE]


def test_at_rest_a_back_hears_of_no_session_and_of_all_of_it_afterwards() -> None:
    ledger, back = Ledger(), Back()
    ledger[1] = entry(1, 5)
    side = joined(ledger, back)
    drain(side, back)
    agree(ledger, back)
    ledger.resting = True
    ledger[1].prefix.extend([7])
    ledger[2] = entry(2, 4)
    drain(side, back)
    assert not back.drafts
    assert not drain(side, back), "nothing is said twice"
    ledger.resting = False
    ledger[1].prefix.extend([8])
    drain(side, back)
    agree(ledger, back)


def test_a_back_hears_once_that_it_rests_and_why_unless_it_does_not_know_the_message() -> None:
    ledger = Ledger()
    ledger.says = "resting: before it came"
    for hears in (True, False):
        side = LeadSide(LEAD, ledger, 0.0)
        side.receive(hello(hears_benefit=hears), 0.0)
        list(side.send(0.0))
        ledger.says = f"resting: 19.6 tokens/s without backs, {hears}"
        told = [pb.LeadMessage.FromString(message) for message in side.send(0.0)]
        assert [message.benefit.message for message in told] == ([ledger.says] if hears else [])
        assert not list(side.send(0.0)), "nothing is said twice"


def test_the_name_that_the_lead_gives_is_told() -> None:
    back = Back()
    side = joined(Ledger(), back)
    side.rename("mini-2")
    drain(side, back)
    assert back.events == [Welcomed("mini-2", "target-13m", SIZE)]


def test_another_protocol_version_is_refused() -> None:
    error = refused(hello(protocol_version=VERSION + 1))
    assert f"protocol version {VERSION + 1}, this lead {VERSION}" in str(error)
    assert isinstance(error, RefusedError) and error.reason == pb.Refusal.REASON_PROTOCOL_VERSION


@pytest.mark.parametrize(
    "first",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"",
        b"\xff" * 100,
        status_to_wire("drafting"),
        next(BackSide(BACK, 0.0).guesses({1: [Expansion(1, 1, [1], [0.5])]})),
        hello(known=[pb.Known(session=i) for i in range(MAX_KNOWN + 1)]),
        b"\0" * (MAX_MESSAGE_BYTES + 1),
    ],
    ids=["http", "empty", "noise", "status first", "guesses first", "too many known", "too large"],
)
def test_garbage_instead_of_a_hello_is_refused(first: bytes) -> None:
    refused(first)


def test_names_from_the_network_are_safe_to_show() -> None:
    side = LeadSide(LEAD, Ledger(), 0.0)
    side.receive(hello(name="evil\x1b]0;owned\x07\n" + "n" * 500, model="m\u202e\r"), 0.0)
    assert side.back is not None
    assert side.back.name.isprintable() and side.back.model.isprintable()
    assert len(side.back.name) <= 128
    nameless = LeadSide(LEAD, Ledger(), 0.0)
    nameless.receive(hello(name=""), 0.0)
    # proto3 cannot say "no name": the merged default stays.
    assert nameless.back is not None and nameless.back.name == "mini"


@pytest.mark.parametrize(
    "found",
    [
        [[expansion(1, 1, token=SIZE)]],
        [[expansion(1, 1)], [expansion(1, 1), expansion(2, 2, token=2**32 - 1)]],
        [[expansion(2, 1)]],
        [[expansion(1, 2)]],
        [[expansion(MAX_CHILDREN + 1, MAX_CHILDREN + 1)]],
        [[expansion(1, 1)] * MAX_EXPANSIONS, [expansion(1, 1)]],
        [[]] * (MAX_EXPANSIONS + 1),
    ],
    ids=["token", "large token", "few chances", "many chances", "many children", "many expansions", "many sessions"],
)
def test_impossible_guesses_are_protocol_errors(found: Sequence[Sequence[pb.Expansion]]) -> None:
    guesses = pb.Guesses(sessions=[pb.SessionGuesses(session=1, expansions=of) for of in found])
    side = joined(Ledger(), Back())
    with pytest.raises(ProtocolError) as error:
        side.receive(pb.BackMessage(guesses=guesses).SerializeToString(), 0.0)
    one_line(error.value)
