"""What a back hears from its lead and sends to it."""

from __future__ import annotations

import pytest

from duo.engines.meaning import MAX_DIFFERING
from duo.errors import ProtocolError, RefusedError
from duo.v1 import duo_pb2 as pb
from duo.wire.back_side import BackSide
from duo.wire.codec import status_to_wire
from duo.wire.lead_side import LeadSide
from duo.wire.ledger import Ledger
from duo.wire.messages import (
    PING_EVERY,
    STATUS_EVERY,
    BenefitCame,
    CommittedTokens,
    Identity,
    PingCame,
    StatusCame,
    Welcomed,
)
from tests.support.wire import BACK, LEAD, MEANINGS, SIZE, Back, drain, entry, hello, joined, one_line, refused


def test_a_back_that_drafts_on_and_off_does_not_say_so_each_time() -> None:
    ledger, back = Ledger(), Back()
    side = joined(ledger, back)
    drain(side, back)
    me, told = back.side, list[object]()
    for i in range(200):
        now = i * STATUS_EVERY / 50  # four times as long as that in all
        me.state = "waiting" if i % 2 else "drafting"
        told += [event for message in me.send(now) if (event := side.receive(message, now)) != PingCame()]
    assert told[0] == StatusCame("drafting")
    assert len(told) <= 4
    me.state = "waiting"
    told += [event for message in me.send(2.0) if (event := side.receive(message, 2.0)) != PingCame()]
    assert told[-1] == StatusCame("waiting")


def test_a_back_hears_why_it_rests() -> None:
    ledger, back = Ledger(), Back()
    side = joined(ledger, back)
    drain(side, back)
    ledger.says = "resting: 19.6 tokens/s without backs\x1b[2J"
    (message,) = side.send(0.0)
    assert back.side.receive(message, 0.0) == BenefitCame("resting: 19.6 tokens/s without backs?[2J")


def test_a_back_learns_how_far_the_lead_s_clock_is_ahead() -> None:
    """The clocks have nothing in common. The quickest answer counts."""
    side, me = LeadSide(LEAD, Ledger(), 5000.0), BackSide(BACK, 10.0, probes=3)
    side.receive(me.hello([]), 5000.0)
    assert list(me.send(10.0)) == [], "not before the Welcome"
    now, late = 10.0, [(0.3, 0.1), (0.002, 0.001), (0.5, 0.0)]
    for there, back_again in late:
        for message in side.send(now + 4990.0):
            me.receive(message, now)
        (ping,) = me.send(now)
        assert list(me.send(now)) == [], "one at a time"
        now += there
        side.receive(ping, now + 4990.0)
        (pong,) = side.send(now + 4990.0)
        now += back_again
        me.receive(pong, now)
    assert me.offset.ahead == pytest.approx(4990.0, abs=0.0015)
    assert me.offset.round_trip == pytest.approx(0.003)
    assert list(me.send(now)) == [], "after that once a second"
    (ping,) = me.send(now + PING_EVERY)
    known = me.offset.ahead
    value = pb.BackMessage.FromString(ping).ping.value
    for answer in (pb.Pong(value=value + 1, clock=1), pb.Pong(value=value)):
        me.receive(pb.LeadMessage(pong=answer).SerializeToString(), now + PING_EVERY)
    assert me.offset.ahead == known, "not from what was not asked, nor from a lead that does not say"


def test_the_lead_says_nothing_before_a_hello_and_the_back_nothing_before_a_welcome() -> None:
    side = LeadSide(LEAD, Ledger({1: entry(1, 3)}), 0.0)
    assert list(side.send(50.0)) == []
    assert list(BackSide(BACK, 0.0).send(50.0)) == []


def test_another_padding_of_the_same_vocabulary_is_not_another_one() -> None:
    """As in Qwen 2.5: its large models have 128 more tokens, which mean nothing."""
    ledger = Ledger()
    for ours in (SIZE - 8, SIZE + 8):
        lead = LeadSide(Identity("lead", "target-13m", "fp", SIZE), ledger, 0.0)
        back = BackSide(Identity("mini", "draft", "fp", ours), 0.0)
        lead.receive(back.hello([]), 0.0)
        (welcome, *_) = lead.send(0.0)
        assert back.receive(welcome, 0.0) == Welcomed("mini", "target-13m", SIZE)
        commit = pb.LeadMessage(commit=pb.Commit(session=1, start=0, tokens=[SIZE - 1]))
        assert back.receive(commit.SerializeToString(), 0.0) == CommittedTokens(1, 0, [SIZE - 1], False)
        commit.commit.tokens[:] = [SIZE]
        with pytest.raises(ProtocolError, match=f"outside its vocabulary of {SIZE}"):
            back.receive(commit.SerializeToString(), 0.0)


def test_what_tokens_mean_is_told_when_it_is_asked_and_once() -> None:
    refused(hello(vocabulary_fingerprint="other"), status_to_wire("drafting"))
    side = joined(Ledger(), Back())
    with pytest.raises(ProtocolError):
        side.receive(pb.BackMessage(meanings=pb.Meanings()).SerializeToString(), 0.0)
    me, compare = BackSide(BACK, 0.0), pb.LeadMessage(compare=pb.Compare(tokens=3)).SerializeToString()
    assert me.receive(compare, 0.0) is None
    (told,) = me.send(0.0)
    assert list(pb.BackMessage.FromString(told).meanings.meanings) == MEANINGS[:3]
    assert list(me.send(0.0)) == []
    with pytest.raises(ProtocolError):
        me.receive(compare, 0.0)


@pytest.mark.parametrize(
    "message",
    [
        pb.LeadMessage(welcome=pb.Welcome()),
        pb.LeadMessage(commit=pb.Commit(tokens=[SIZE])),
        pb.LeadMessage(begin=pb.Begin(sampling=pb.Sampling(temperature=-1))),
        pb.LeadMessage(begin=pb.Begin(sampling=pb.Sampling(top_p=1, repetition_penalty=1), ends=[SIZE])),
        pb.LeadMessage(begin=pb.Begin(sampling=pb.Sampling(top_p=1, repetition_penalty=1), ends=[1] * 257)),
        pb.LeadMessage(begin=pb.Begin(sampling=pb.Sampling(top_p=1, repetition_penalty=1), turn=2, backs=2)),
        pb.LeadMessage(begin=pb.Begin(sampling=pb.Sampling(temperature=float("nan")))),
        pb.LeadMessage(begin=pb.Begin(sampling=pb.Sampling(top_p=1, repetition_penalty=1, logit_bias={SIZE: 1.0}))),
        pb.LeadMessage(),
    ],
    ids=["second welcome", "token", "temperature", "end", "ends", "turn", "nan", "bias", "empty"],
)
def test_a_lead_that_makes_no_sense_is_a_protocol_error(message: pb.LeadMessage) -> None:
    back = Back()
    drain(joined(Ledger(), back), back)
    with pytest.raises(ProtocolError) as error:
        back.side.receive(message.SerializeToString(), 0.0)
    assert not isinstance(error.value, RefusedError)
    one_line(error.value)


@pytest.mark.parametrize(
    "welcome",
    [
        pb.Welcome(differing=[3, 3]),
        pb.Welcome(differing=[4, 3]),
        pb.Welcome(differing=range(MAX_DIFFERING + 1)),
        pb.Welcome(first=b"x" * 257),
    ],
    ids=["twice", "order", "many", "long"],
)
def test_a_welcome_that_makes_no_sense_is_a_protocol_error(welcome: pb.Welcome) -> None:
    with pytest.raises(ProtocolError):
        BackSide(BACK, 0.0).receive(pb.LeadMessage(welcome=welcome).SerializeToString(), 0.0)


def test_a_refusal_is_shown_safely_whatever_it_says() -> None:
    message = pb.LeadMessage(refusal=pb.Refusal(message="no\n\x1b[2Jway " + "x" * 5000))
    with pytest.raises(RefusedError) as error:
        BackSide(BACK, 0.0).receive(message.SerializeToString(), 0.0)
    one_line(error.value)
    assert str(error.value).startswith("no??[2Jway")


def test_a_lead_that_does_not_show_its_vocabulary() -> None:
    """An older one asks what the tokens mean."""
    back = BackSide(Identity("mini", "", "", 0), 0.0, looks=True)
    with pytest.raises(ProtocolError, match="older release and does not show its vocabulary: give a draft with -m"):
        back.receive(pb.LeadMessage(compare=pb.Compare(tokens=SIZE)).SerializeToString(), 0.0)


@pytest.mark.parametrize(
    "shown",
    [
        pb.Vocabulary(fingerprint="fp"),
        pb.Vocabulary(fingerprint="fp", tokens=1, sample=[b"a", b"b"]),
        pb.Vocabulary(fingerprint="fp", tokens=2**32 - 1, sample=[b"a"]),
        pb.Vocabulary(fingerprint="fp", tokens=9000, sample=[b"a"] * 9000),
        pb.Vocabulary(fingerprint="fp", tokens=2, sample=[b"a" * 5000, b"b"]),
    ],
)
def test_a_vocabulary_that_makes_no_sense_is_none(shown: pb.Vocabulary) -> None:
    back = BackSide(BACK, 0.0)
    refusal = pb.Refusal(reason=pb.Refusal.REASON_VOCABULARY, message="no", target=shown)
    with pytest.raises(RefusedError):
        back.receive(pb.LeadMessage(refusal=refusal).SerializeToString(), 0.0)
    assert back.target is None
