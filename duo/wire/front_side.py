"""A back, as one sees it who hands its stream on to the lead of one of several models.

Messages pass as they are. Only the Hello is read, and what decides about the back: Welcome, Refusal and Compare.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from duo.errors import ProtocolError
from duo.v1 import duo_pb2 as pb
from duo.wire import messages
from duo.wire.codec import parse
from duo.wire.lead_side import identity_of
from duo.wire.pings import Pings

Verdict = Literal["welcome", "compare", "unsuited", "other"]


class FrontSide:
    """One stream of a back, from its Hello until a lead has taken it."""

    def __init__(self, hello: bytes, now: float) -> None:
        """Raises ProtocolError, and RefusedError for another version of the protocol."""
        message = parse(pb.BackMessage(), hello)
        kind = message.WhichOneof("kind")
        if kind != "hello":
            raise ProtocolError(f"the first message must be a Hello, not {kind or 'an empty one'}")
        self.hello = hello
        self.back = identity_of(message.hello)
        self.looks = message.hello.looks
        """It has no model yet: it wants to see the vocabulary of one here."""
        self.received_at = now
        """When the back was heard last."""
        self._pings = Pings(now)
        self._told = ""

    def wait(self, why: str, now: float) -> Iterator[bytes]:
        """The messages that are due while the back waits. `why`: one line for people."""
        if why != self._told:
            self._told = why
            yield pb.LeadMessage(wait=pb.Wait(message=why)).SerializeToString()
        if (ping := self._pings.due(now)) is not None:
            yield pb.LeadMessage(ping=pb.Ping(value=ping)).SerializeToString()

    def lost(self, now: float) -> bool:
        return now - self.received_at >= messages.LOST_AFTER


def verdict(data: bytes) -> Verdict:
    """What a lead's message before its Welcome says about the back. Raises ProtocolError."""
    message = parse(pb.LeadMessage(), data)
    match message.WhichOneof("kind"):
        case "welcome":
            return "welcome"
        case "compare":
            return "compare"
        case "refusal" if message.refusal.reason == pb.Refusal.REASON_VOCABULARY:
            return "unsuited"
        case _:
            return "other"
