"""A back, as one sees it who hands its stream on."""

from __future__ import annotations

import pytest

from duo.errors import ProtocolError, RefusedError
from duo.v1 import duo_pb2 as pb
from duo.wire.back_side import BackSide
from duo.wire.front_side import FrontSide, verdict
from duo.wire.lead_side import LeadSide, refusal_of
from duo.wire.ledger import Ledger
from duo.wire.messages import LOST_AFTER, PING_EVERY, VERSION, PingCame, WaitCame, Welcomed
from tests.support.wire import BACK, LEAD


def test_a_back_waits_and_is_welcomed_by_a_lead() -> None:
    back = BackSide(BACK, 0.0)
    front = FrontSide(back.hello([]), 0.0)
    assert (front.back.name, front.back.fingerprint) == (BACK.name, BACK.fingerprint)
    (wait,) = front.wait("no model is loaded", 0.1)
    assert back.receive(wait, 0.1) == WaitCame("no model is loaded")
    assert back.waits and not back.welcomed
    assert list(front.wait("no model is loaded", 0.2)) == [], "it is said once"
    (ping,) = front.wait("no model is loaded", PING_EVERY + 0.1)
    assert back.receive(ping, 1.1) == PingCame()
    (pong,) = back.send(1.1)
    assert pb.BackMessage.FromString(pong).HasField("pong")
    lead = LeadSide(LEAD, Ledger(), 2.0)
    lead.receive(front.hello, 2.0)
    (welcome,) = lead.send(2.0)
    assert verdict(welcome) == "welcome"
    assert isinstance(back.receive(welcome, 2.0), Welcomed)


def test_pings_before_a_welcome_are_for_backs_that_wait() -> None:
    with pytest.raises(ProtocolError, match="Welcome, not ping"):
        BackSide(BACK, 0.0).receive(pb.LeadMessage(ping=pb.Ping(value=1)).SerializeToString(), 0.0)


def test_what_a_lead_says_about_a_back() -> None:
    unsuited = RefusedError("another vocabulary", pb.Refusal.REASON_VOCABULARY)
    full = RefusedError("full", pb.Refusal.REASON_TOO_MANY_BACKS)
    assert verdict(pb.LeadMessage(compare=pb.Compare(tokens=5)).SerializeToString()) == "compare"
    assert verdict(refusal_of(unsuited)) == "unsuited"
    assert verdict(refusal_of(full)) == verdict(refusal_of(ProtocolError("wrong"))) == "other"
    with pytest.raises(ProtocolError):
        verdict(b"\xff\xff")


def test_first_messages_that_are_no_hello() -> None:
    ping = pb.BackMessage(ping=pb.Ping(value=1)).SerializeToString()
    for message, error in ((ping, ProtocolError), (b"\xff\xff", ProtocolError)):
        with pytest.raises(error):
            FrontSide(message, 0.0)
    other = pb.BackMessage(hello=pb.Hello(protocol_version=VERSION + 1)).SerializeToString()
    with pytest.raises(RefusedError, match="protocol version"):
        FrontSide(other, 0.0)


def test_silence() -> None:
    front = FrontSide(BackSide(BACK, 0.0).hello([]), 10.0)
    assert not front.lost(10.0 + LOST_AFTER - 0.1)
    assert front.lost(10.0 + LOST_AFTER)
