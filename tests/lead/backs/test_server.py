"""Backs whose vocabularies are compared: how long they may take, and how many at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

import lead.flags
from duo.trace import Trace
from duo.v1 import duo_pb2 as pb
from duo.wire.back_side import BackSide
from duo.wire.ledger import Ledger
from duo.wire.messages import MIN_MESSAGE_BYTES, Identity
from lead.backs.admission import Admission
from lead.backs.server import Backs
from lead.decode.inbox import Inbox

ME = Identity("lead", "target", "a", 1000, [b"%d" % token for token in range(1000)])


class Stream:
    """A back that sends a few messages and then nothing."""

    def __init__(self, *messages: bytes) -> None:
        self._messages = messages
        self.heard: asyncio.Queue[pb.LeadMessage] = asyncio.Queue()

    async def requests(self) -> AsyncIterator[bytes]:
        for message in self._messages:
            yield message
        await asyncio.get_running_loop().create_future()

    async def write(self, message: bytes) -> None:
        self.heard.put_nowait(pb.LeadMessage.FromString(message))

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"


def hello(fingerprint: str) -> bytes:
    return BackSide(Identity("mini", "draft", fingerprint, 1000), 0.0).hello([])


def backs_of(most: int) -> Backs:
    speculation = SimpleNamespace(joined=lambda name: None, left=lambda name: None)
    decoder: Any = SimpleNamespace(speculation=speculation, inbox=Inbox())
    backs = Backs(ME, Ledger(), decoder, Trace())
    backs.admission = Admission(backs=most)
    return backs


async def kinds(stream: Stream, count: int) -> Sequence[pb.LeadMessage]:
    return [await stream.heard.get() for _ in range(count)]


@pytest.mark.parametrize("limit", ["LOST_AFTER", "COMPARED_WITHIN"])
def test_one_that_says_no_more_is_refused_with_words(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"duo.wire.messages.{limit}", 0.0)
    stream: Any = Stream(hello("b"))
    asyncio.run(backs_of(1).serve_stream(stream.requests(), stream))
    *_, last = [stream.heard.get_nowait() for _ in range(stream.heard.qsize())]
    assert last.refusal.reason == pb.Refusal.REASON_VOCABULARY
    assert "has not come in time, only of 0 tokens" in last.refusal.message


def test_those_that_are_compared_count_as_backs() -> None:
    async def run() -> tuple[str, str]:
        backs = backs_of(1)
        slow: Any = Stream(hello("b"))
        comparing = asyncio.ensure_future(backs.serve_stream(slow.requests(), slow))
        (compare,) = await kinds(slow, 1)
        others: list[str] = []
        for fingerprint in ("b", "a"):
            other: Any = Stream(hello(fingerprint))
            await backs.serve_stream(other.requests(), other)
            others += [message.refusal.message for message in await kinds(other, 1)]
        comparing.cancel()
        await asyncio.gather(comparing, return_exceptions=True)
        late: Any = Stream(hello("a"))
        joined = asyncio.ensure_future(backs.serve_stream(late.requests(), late))
        (welcome,) = await kinds(late, 1)
        joined.cancel()
        await asyncio.gather(joined, return_exceptions=True)
        assert compare.HasField("compare") and welcome.HasField("welcome"), "its place is free again"
        return others[0], others[1]

    assert asyncio.run(run()) == ("the lead has 1 backs already",) * 2


def test_a_limit_that_no_message_fits_into_is_refused_by_its_flag(capsys: pytest.CaptureFixture[str]) -> None:
    parser = lead.flags.parser()
    assert parser.parse_args(["--max-message", str(MIN_MESSAGE_BYTES)]).max_message == MIN_MESSAGE_BYTES
    with pytest.raises(SystemExit):
        parser.parse_args(["--max-message", "16384"])
    (line,) = capsys.readouterr().err.splitlines()
    assert "--max-message: 16384 is too few" in line and str(MIN_MESSAGE_BYTES) in line
