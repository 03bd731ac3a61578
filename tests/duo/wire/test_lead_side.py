"""What the lead hears from a back and sends to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from duo.engines.meaning import MAX_DIFFERING
from duo.errors import ProtocolError, RefusedError
from duo.guesses import ALONE, Expansion, Share
from duo.prefix import Prefix
from duo.v1 import duo_pb2 as pb
from duo.wire.back_side import BackSide
from duo.wire.codec import status_to_wire
from duo.wire.lead_side import LeadSide
from duo.wire.ledger import Ledger
from duo.wire.messages import (
    COMPARED_WITHIN,
    LOST_AFTER,
    MAX_CHILDREN,
    MAX_COMMIT_TOKENS,
    MAX_EXPANSIONS,
    MAX_KNOWN,
    MAX_MESSAGE_BYTES,
    MAX_WAITING_PINGS,
    MIN_MEANINGS,
    VERSION,
    Begun,
    CommittedTokens,
    Ended,
    Identity,
    Welcomed,
)
from tests.support.wire import (
    BACK,
    LEAD,
    MEANINGS,
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


def test_another_vocabulary_is_refused() -> None:
    strange = [b"\x1b[31m\xff\n" * 9, *MEANINGS[: SIZE - 10]]
    told = pb.BackMessage(meanings=pb.Meanings(meanings=strange)).SerializeToString()
    error = refused(hello(model="dr\naft\x1b[31m" + "x" * 1000, vocabulary_fingerprint="other"), told)
    assert "another vocabulary" in str(error) and "target-13m" in str(error)
    assert ": 1000 of 1000 tokens differ, the first is 0: '0' in the target, " in str(error)
    assert isinstance(error, RefusedError) and error.reason == pb.Refusal.REASON_VOCABULARY


def test_a_back_that_looks_for_a_model_is_shown_the_vocabulary() -> None:
    lead = replace(LEAD, model_bytes=7 << 40)
    side, back = LeadSide(lead, Ledger(), 0.0), BackSide(Identity("mini", "", "", 0), 0.0, looks=True)
    with pytest.raises(RefusedError) as refusal:
        side.receive(back.hello([]), 0.0)
    assert side.looks
    with pytest.raises(RefusedError, match="the target is target-13m: use a draft of the same family"):
        back.receive(side.refusal(refusal.value), 0.0)
    assert back.target is not None and back.target.fingerprint == LEAD.fingerprint
    assert back.target.model_bytes == 7 << 40
    assert back.target.resembles(MEANINGS) and not back.target.resembles(MEANINGS[::-1])


def test_of_a_much_larger_vocabulary_the_refusal_says_both_sizes_and_at_least() -> None:
    asked_for = SIZE + MAX_DIFFERING + 1
    told = pb.BackMessage(meanings=pb.Meanings(meanings=[b"?"] * asked_for)).SerializeToString()
    text = str(refused(hello(vocabulary_fingerprint="other", vocabulary_size=262_144), told))
    assert f"'draft' (262144 tokens) has another vocabulary than the target model 'target-13m' ({SIZE} tokens)" in text
    assert f": at least {asked_for} of {asked_for} tokens differ, " in text


def test_a_back_has_time_to_say_what_its_tokens_mean_as_long_as_it_goes_on() -> None:
    side = LeadSide(LEAD, Ledger(), 0.0)
    assert side.receive(hello(vocabulary_fingerprint="other"), 1.0) is None
    assert side.compare_until == 1.0 + LOST_AFTER
    more = pb.Meanings(meanings=MEANINGS[:MIN_MEANINGS], more=True)
    side.receive(pb.BackMessage(meanings=more).SerializeToString(), 9.0)
    assert side.compare_until == 9.0 + LOST_AFTER
    more.start, more.meanings[:] = MIN_MEANINGS, MEANINGS[MIN_MEANINGS : 2 * MIN_MEANINGS]
    side.receive(pb.BackMessage(meanings=more).SerializeToString(), COMPARED_WITHIN)
    assert side.compare_until == 1.0 + COMPARED_WITHIN, "and not for ever"
    one_line(side.too_slow())
    assert f"only of {2 * MIN_MEANINGS} tokens" in str(side.too_slow())
    # The lead has nothing to say all the while: the back is as patient.
    back = BackSide(BACK, 0.0)
    assert back.lost(LOST_AFTER)
    back.receive(next(side.send(0.0)), 0.0)
    assert not back.lost(COMPARED_WITHIN - 1) and back.lost(COMPARED_WITHIN)


def compared(
    target: Sequence[bytes], draft: Sequence[bytes], ledger: Ledger | None = None
) -> tuple[LeadSide, Back, Welcomed]:
    """Both sides after they have met, with these vocabularies."""
    ledger = Ledger() if ledger is None else ledger
    lead = LeadSide(Identity("lead", "target-13m", "a", len(target), target), ledger, 0.0)
    back = Back(Identity("mini", "draft-1m", "b", len(draft), draft))
    lead.receive(back.connect(), 0.0)
    messages = 0
    while not lead.greeted:
        drain(lead, back)
        assert not back.events
        for message in back.side.send(0.0):
            assert len(message) <= MAX_MESSAGE_BYTES
            lead.receive(message, 0.0)
            messages += 1
        assert messages
    drain(lead, back)
    assert isinstance(back.events[0], Welcomed)
    return lead, back, back.events[0]


def test_vocabularies_that_differ_in_a_few_tokens_work_together_and_both_sides_say_so() -> None:
    renamed = list(MEANINGS)
    renamed[7] = b"<|end|>"
    lead, back, welcomed = compared(MEANINGS, renamed)
    assert welcomed.differing == (7,) and welcomed.vocabulary_size == SIZE
    line = "1 of 1000 tokens differs, it is 7: '7' in the target, '<|end|>' in the draft"
    assert str(lead.comparison) == welcomed.difference == line
    # Fine-tunes have more special tokens, and pad what they have otherwise.
    more = [*MEANINGS, b"<think>", b"</think>", b"", b""]
    _, _, welcomed = compared(more, MEANINGS)
    assert welcomed.differing == (SIZE, SIZE + 1) and welcomed.vocabulary_size == SIZE + 4
    assert (
        welcomed.difference
        == "2 of 1002 tokens differ, the first is 1000: '<think>' in the target, nothing in the draft"
    )
    ledger = Ledger()
    lead, back, welcomed = compared(MEANINGS, more, ledger)
    assert welcomed.differing == (SIZE, SIZE + 1) and welcomed.vocabulary_size == SIZE
    ledger[1] = replace(entry(1, 5), ends=[5, 7])
    drain(lead, back)
    assert back.events[1] == Begun(1, SAMPLING, 5, ends=(5, 7))


def test_a_late_pong_does_not_disturb_the_comparison() -> None:
    """Who serves several models pings a back that waits. The pong may come when the back is with one of them."""
    lead = LeadSide(Identity("lead", "target-13m", "a", SIZE, MEANINGS), Ledger(), 0.0)
    back = BackSide(Identity("mini", "draft-1m", "b", SIZE, MEANINGS), 0.0)
    lead.receive(back.hello([]), 0.0)
    assert lead.receive(pb.BackMessage(pong=pb.Pong(value=1)).SerializeToString(), 0.0) is None
    (compare,) = lead.send(0.0)
    back.receive(compare, 0.0)
    for message in back.send(0.0):
        lead.receive(message, 0.0)
    assert lead.greeted


def test_a_large_vocabulary_goes_in_bounded_messages() -> None:
    target = [b"%d" % token * 20 for token in range(50_000)]
    _, _, welcomed = compared(target, [*target[:49_999], b"?" * 256])
    assert welcomed.differing == (49_999,)


@pytest.mark.parametrize(
    "meanings",
    [
        pb.Meanings(start=1, meanings=[b"0"]),
        pb.Meanings(more=True),
        pb.Meanings(meanings=MEANINGS[: MIN_MEANINGS - 1], more=True),
        pb.Meanings(meanings=[b"x" * 257]),
        pb.Meanings(meanings=[b""] * (SIZE + MAX_DIFFERING + 2)),
    ],
    ids=["gap", "endless", "few", "long", "many"],
)
def test_meanings_that_make_no_sense_are_protocol_errors(meanings: pb.Meanings) -> None:
    told = pb.BackMessage(meanings=meanings).SerializeToString()
    error = refused(hello(vocabulary_fingerprint="other"), told)
    assert not isinstance(error, RefusedError)


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
