"""The back's stream to its lead, with an end that a real lead seldom produces."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from back import link
from back.drafter import Drafter
from back.link import Link
from duo.engines.meaning import Sample, fingerprint
from duo.errors import RefusedError
from duo.trace import Trace
from duo.wire.back_side import BackSide
from duo.wire.lead_side import LeadSide
from duo.wire.ledger import Ledger
from duo.wire.messages import Identity
from tests.support.desk import Desk


class _Call:
    """A stream that the lead closes in good order while the back is still writing."""

    async def write(self, message: bytes) -> None:
        self.written = getattr(self, "written", 0) + 1
        if self.written > 1:
            raise asyncio.InvalidStateError("RPC already finished.")  # as gRPC's Python does

    async def read(self) -> object:
        await asyncio.sleep(0)
        return grpc.aio.EOF

    async def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.OK

    def cancel(self) -> None: ...


class _Broken(_Call):
    """A stream that fails in gRPC's own words."""

    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code

    async def write(self, message: bytes) -> None: ...

    async def code(self) -> grpc.StatusCode:
        return self._code

    async def details(self) -> str:
        return "Internal error from Core"

    async def initial_metadata(self) -> grpc.aio.Metadata:
        return grpc.aio.Metadata()

    trailing_metadata = initial_metadata


class _Channel:
    def __init__(self, call: Callable[[], _Call] = _Call) -> None:
        self._call = call
        self.calls = 0
        self.enough = asyncio.Event()

    async def __aenter__(self) -> _Channel:
        return self

    async def __aexit__(self, *error: object) -> None: ...

    def stream_stream(self, method: str) -> Any:
        self.calls += 1
        if self.calls == 3:
            self.enough.set()
        return lambda metadata: self._call()


def tries(channel: _Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A back tries three times to join the lead behind this channel."""
    monkeypatch.setattr(link, "FIRST_WAIT", 0.001)

    async def run() -> None:
        back = Link("localhost:1", Identity("back", "draft", "fp", 12), Trace())
        monkeypatch.setattr(grpc.aio, "insecure_channel", lambda address, options: channel)
        monkeypatch.setattr("duo.wire.back_side.BackSide.send", lambda self, now: [b"a ping"])
        running = asyncio.ensure_future(back.run(Drafter(Desk().drafting, back.fail)))
        enough = asyncio.ensure_future(channel.enough.wait())
        await asyncio.wait([running, enough], timeout=60, return_when=asyncio.FIRST_COMPLETED)
        assert enough.done() and not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(run())


def test_a_back_goes_on_trying_when_its_lead_closes_the_stream(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries(_Channel(), monkeypatch)
    assert "lost the lead at localhost:1: it closed the stream; trying again" in caplog.text


@pytest.mark.parametrize(
    ("welcomed", "code", "said"),
    [
        (True, grpc.StatusCode.INTERNAL, "lost the lead at localhost:1: the connection broke; trying again"),
        (True, grpc.StatusCode.RESOURCE_EXHAUSTED, "lost the lead at localhost:1: a message was too large"),
        (False, grpc.StatusCode.UNAVAILABLE, "no lead at localhost:1: nothing listens there; start the lead"),
    ],
)
def test_grpc_s_words_do_not_reach_a_person(
    welcomed: bool,
    code: grpc.StatusCode,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(
        "duo.wire.back_side.BackSide.welcomed", property(lambda side: welcomed, lambda *_: None), raising=False
    )
    tries(_Channel(lambda: _Broken(code)), monkeypatch)
    assert said in caplog.text and "Core" not in caplog.text


MEANINGS = [b"%d" % token for token in range(1000)]
LEAD = Identity("lead", "target", fingerprint(MEANINGS), 1000, MEANINGS)


class _RefusingCall:
    """A stream to a lead that answers a Hello with a refusal for another vocabulary."""

    def __init__(self) -> None:
        self._side = LeadSide(LEAD, Ledger(), 0.0)
        self._answers: asyncio.Queue[bytes] = asyncio.Queue()

    async def write(self, message: bytes) -> None:
        try:
            self._side.receive(message, 0.0)
        except RefusedError as error:
            self._answers.put_nowait(self._side.refusal(error))
        else:
            for answer in self._side.send(0.0):
                self._answers.put_nowait(answer)

    async def read(self) -> bytes:
        return await self._answers.get()

    def cancel(self) -> None: ...


class _RefusingChannel(_Channel):
    def stream_stream(self, method: str) -> Any:
        super().stream_stream(method)
        return lambda metadata: _RefusingCall()


def test_a_back_without_a_model_asks_for_the_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> Sample:
        monkeypatch.setattr(grpc.aio, "insecure_channel", lambda address, options: _RefusingChannel())
        return await asyncio.wait_for(Link("lead:1", Identity("back", "", "", 0), Trace()).vocabulary(), 60)

    assert asyncio.run(run()).resembles(MEANINGS)


class _SilentCall(_RefusingCall):
    """A stream to a lead that takes the Hello and hangs."""

    cancelled = False

    async def write(self, message: bytes) -> None: ...

    def cancel(self) -> None:
        self.cancelled = True


def test_a_back_without_a_model_does_not_wait_for_ever(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The first lead says nothing. The next one answers."""
    silent = _SilentCall()

    class Channel(_RefusingChannel):
        def stream_stream(self, method: str) -> Any:
            make = super().stream_stream(method)
            return (lambda metadata: silent) if self.calls == 1 else make

    channel = Channel()

    async def run() -> Sample:
        monkeypatch.setattr(grpc.aio, "insecure_channel", lambda address, options: channel)
        return await asyncio.wait_for(Link("lead:1", Identity("back", "", "", 0), Trace()).vocabulary(), 60)

    monkeypatch.setattr(link, "READER_WITHIN", 0.001)
    monkeypatch.setattr(link, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(BackSide, "lost", lambda side, now: channel.calls == 1)
    assert asyncio.run(run()).resembles(MEANINGS)
    assert silent.cancelled
    assert "gave up the stream to lead:1: nothing was heard from it for too long; trying again" in caplog.text


def test_a_refused_back_tells_once_what_the_target_s_vocabulary_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "REFUSED_WAIT", 0.001)
    shown: list[Sample] = []

    async def unsuited(target: Sample) -> None:
        shown.append(target)

    async def run() -> None:
        channel = _RefusingChannel()
        monkeypatch.setattr(grpc.aio, "insecure_channel", lambda address, options: channel)
        other = [b"x%d" % token for token in range(1000)]
        me = Identity("back", "draft", fingerprint(other), 1000, other)
        back = Link("lead:1", me, Trace(), unsuited=unsuited)
        running = asyncio.ensure_future(back.run(Drafter(Desk().drafting, back.fail)))
        await asyncio.wait_for(channel.enough.wait(), 60)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(run())
    (target,) = shown
    assert target.resembles(MEANINGS)
