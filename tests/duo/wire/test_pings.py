"""Pings and pongs: round trips, silence, and floods."""

from __future__ import annotations

import pytest

from duo.v1 import duo_pb2 as pb
from duo.wire.ledger import Ledger
from duo.wire.messages import LOST_AFTER, MAX_WAITING_PINGS, PING_EVERY, SILENT_AFTER
from tests.support.wire import Back, drain, joined


def test_round_trips_are_measured_and_silence_is_noticed() -> None:
    ledger, back = Ledger(), Back()
    side = joined(ledger, back, now=100.0)
    drain(side, back, 100.0)
    assert side.round_trip is None
    (ping,) = side.send(100.0 + PING_EVERY)
    assert list(side.send(100.0 + PING_EVERY)) == [], "not again at once"
    back.hear(ping, 101.5)
    (pong,) = back.side.send(100.5)
    side.receive(pong, 101.0 + 0.25)
    assert side.round_trip == pytest.approx(0.25)
    side.receive(pong, 109.0)
    assert side.round_trip == pytest.approx(0.25), "a pong counts once"
    side.receive(pb.BackMessage(pong=pb.Pong(value=12345)).SerializeToString(), 110.0)
    assert side.round_trip == pytest.approx(0.25), "and only for what was asked"
    assert not side.silent(110.0 + SILENT_AFTER - 0.1)
    assert side.silent(110.0 + SILENT_AFTER) and not side.lost(110.0 + SILENT_AFTER)
    assert side.lost(110.0 + LOST_AFTER)
    assert not back.side.lost(101.5 + LOST_AFTER - 0.1)
    assert back.side.lost(101.5 + LOST_AFTER)


def test_pings_of_the_back_are_answered_and_a_flood_of_them_is_not_stored() -> None:
    ledger, back = Ledger(), Back()
    side = joined(ledger, back)
    drain(side, back)
    (ping,) = back.side.send(PING_EVERY)
    side.receive(ping, PING_EVERY)
    (pong,) = (m for m in map(pb.LeadMessage.FromString, side.send(0.5)) if m.HasField("pong"))
    assert pong.pong.value == pb.BackMessage.FromString(ping).ping.value
    for value in range(1000):
        side.receive(pb.BackMessage(ping=pb.Ping(value=value)).SerializeToString(), 1.0)
        back.side.receive(pb.LeadMessage(ping=pb.Ping(value=value)).SerializeToString(), 1.0)
    assert len(list(side.send(0.5))) <= MAX_WAITING_PINGS
    assert len(list(back.side.send(0.5))) <= MAX_WAITING_PINGS
