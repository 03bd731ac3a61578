"""The gRPC side of the lead: a stream per back, around `duo.wire.lead_side.LeadSide`.

Guesses go into the decoder's mailbox; what became final goes out as the difference between the ledger and what each
back has been sent, so a back that reads slowly makes nothing pile up here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any

import grpc

from duo.errors import ProtocolError, RefusedError
from duo.trace import Trace
from duo.v1 import duo_pb2 as pb
from duo.wire.lead_side import LeadSide
from duo.wire.ledger import Ledger
from duo.wire.messages import LOOK_EVERY, METHOD, Identity, guess_count
from lead.api import BackView
from lead.backs.admission import Admission, Allowance, plain
from lead.decode.inbox import Message
from lead.decode.local_draft import NAME
from lead.decode.loop import Decoder
from lead.decode.session import Step

log = logging.getLogger("lead")

Stream = grpc.aio.ServicerContext[bytes, bytes]


HELLO = 10.0
"""Seconds until a back has said who it is."""

SETTLING = 5.0
"""Seconds that a message may still take when its stream is to end."""


class _Out:
    """The way out of a stream. A message that was begun is finished even if whoever sends it is cancelled: gRPC takes
    one at a time, and cannot end a stream in order while one is on its way."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._sending: asyncio.Future[None] | None = None

    async def send(self, message: bytes) -> None:
        self._sending = asyncio.ensure_future(self._stream.write(message))
        self._sending.add_done_callback(lambda done: done.cancelled() or done.exception())  # it is known by then
        await asyncio.shield(self._sending)

    async def settle(self) -> bool:
        """Wait for the message on its way, if there is one; returns whether the way is free then."""
        if self._sending is not None:
            with contextlib.suppress(Exception):  # a peer that is gone, or does not read
                await asyncio.wait_for(asyncio.shield(self._sending), SETTLING)
            return self._sending.done()
        return True


class _Back:
    """A connected back."""

    def __init__(self, side: LeadSide) -> None:
        self.side = side
        self.news = asyncio.Event()
        self.replaced = False
        self.drafted = 0
        self.accepted = 0
        self.told = False
        """That it guesses more than it may."""

    @property
    def name(self) -> str:
        assert self.side.back is not None
        return self.side.back.name


class Backs:
    """All connected backs. Lives in the event loop."""

    def __init__(self, me: Identity, ledger: Ledger, decoder: Decoder, trace: Trace) -> None:
        self._me = me
        self._trace = trace
        self._ledger = ledger
        self._decoder = decoder
        self._backs: dict[str, _Back] = {}
        self._server: grpc.aio.Server | None = None
        self._comparing = 0
        """Streams of backs that are saying what their tokens mean."""
        self._refused: set[str] = set()
        self._admission = Admission()

    async def serve(self, host: str, port: int, admission: Admission) -> int:
        """Listen; returns the port. Raises AddressError if that is not possible, FileError for a wrong certificate."""
        self._admission = admission
        server = admission.server()
        service, method = METHOD.strip("/").split("/")
        # No (de)serialisers: bytes come in, so that garbage is met by our own words and not by a gRPC stack trace.
        handler: Any = grpc.stream_stream_rpc_method_handler(self._draft)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        bound = admission.open(server, host, port)
        await server.start()
        self._server = server
        return bound

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0.2)

    @property
    def any(self) -> bool:
        """Whether a back is connected. Called from another thread."""
        return bool(self._backs)

    def changed(self) -> None:
        """The ledger has something new."""
        for back in self._backs.values():
            back.news.set()

    def count(self, step: Step) -> None:
        """Book the guesses that were verified, by back."""
        rejected = {id(node) for node in step.rejected}
        for node in step.drafted:
            for name in node.chances:
                if (back := self._backs.get(name)) is not None:
                    back.drafted += 1
                    back.accepted += id(node) not in rejected

    def view(self) -> Sequence[BackView]:
        now = time.perf_counter()
        return [
            BackView(
                name=back.name,
                model=back.side.back.model if back.side.back else "",
                state="silent" if back.side.silent(now) else back.side.state,
                round_trip_ms=None if back.side.round_trip is None else back.side.round_trip * 1000,
                drafted=back.drafted,
                accepted=back.accepted,
            )
            for back in self._backs.values()
        ]

    async def _draft(self, requests: AsyncIterator[bytes], stream: Stream) -> None:
        """One stream, from its first message to its end."""
        side = LeadSide(self._me, self._ledger, time.perf_counter())
        back, out = _Back(side), _Out(stream)
        joined = False
        try:
            async with asyncio.timeout(HELLO):
                side.receive(await anext(requests), time.perf_counter())
            if not side.greeted:
                await self._compare(requests, side, out)
            self._join(back)
            joined = True
            self._decoder.joined(back.name)
            log.info("back %s joined: %s, from %s", back.name, side.back.model if side.back else "", stream.peer())
            if side.comparison is not None:
                log.info("back %s: %s", back.name, side.comparison)
            await _first_of(self._read(requests, back), self._write(out, back), self._watch(back))
            log.info("back %s left", back.name)
        except (ProtocolError, RefusedError) as error:
            self._tell_refusal(back.name if side.back else plain(stream.peer()), error)
            if await out.settle():
                with contextlib.suppress(TimeoutError):  # it need not listen
                    await asyncio.wait_for(out.send(LeadSide.refusal(error)), SETTLING)
        except (StopAsyncIteration, TimeoutError):
            log.debug("a stream from %s ended before it began", stream.peer())
        except asyncio.CancelledError:
            if joined:
                log.info("back %s is gone", back.name)
            raise
        finally:
            if joined and self._backs.get(back.name) is back:
                # Not if another stream of the same back has taken its place.
                self._decoder.left(back.name)
                del self._backs[back.name]
                self._decoder.inbox.drop(back.name)
            await out.settle()

    async def _compare(self, requests: AsyncIterator[bytes], side: LeadSide, out: _Out) -> None:
        """Have the back say what its tokens mean. Raises RefusedError where that differs too much or comes too slowly.

        Meanwhile it counts as a back: it costs as much.
        """
        self._admit()
        self._comparing += 1
        try:
            while not side.greeted:
                async with asyncio.timeout(side.compare_until - time.perf_counter()):
                    for message in side.send(time.perf_counter()):
                        await out.send(message)
                    data = await anext(requests)
                side.receive(data, time.perf_counter())
        except TimeoutError:
            raise side.too_slow() from None
        finally:
            self._comparing -= 1

    def _admit(self) -> None:
        """Raises RefusedError where there is no room for one more back."""
        if len(self._backs) + self._comparing >= self._admission.backs:
            raise RefusedError(f"the lead has {self._admission.backs} backs already", pb.Refusal.REASON_TOO_MANY_BACKS)

    def _tell_refusal(self, who: str, error: Exception) -> None:
        """One line for each back and reason, however often it tries."""
        line = f"back {who} refused: {error}"
        if line not in self._refused:
            if len(self._refused) > 1000:
                self._refused.clear()
            self._refused.add(line)
            log.warning(line)

    def _tell_too_many(self, back: _Back) -> None:
        if not back.told:
            back.told = True
            log.warning(
                "back %s guesses more than --max-guesses %d: the rest is dropped", back.name, self._admission.guesses
            )

    def _join(self, back: _Back) -> None:
        self._admit()
        wanted, number = back.name, 2
        while (other := self._backs.get(back.name)) is not None or back.name == NAME:
            if other is not None and other.side.silent(time.perf_counter()):
                other.replaced = True  # the same back again, after a connection that broke without a word
                break
            back.side.rename(f"{wanted}-{number}")
            number += 1
        self._backs[back.name] = back

    async def _read(self, requests: AsyncIterator[bytes], back: _Back) -> None:
        allowance = Allowance(self._admission.guesses, time.perf_counter())
        async for data in requests:
            now = time.perf_counter()
            guesses = back.side.receive(data, now)
            if guesses is not None:
                count = guess_count(guesses)
                if not allowance.takes(count, now):
                    self._tell_too_many(back)
                    continue
                self._decoder.inbox.put(Message(back.name, now, guesses))
                self._trace.instant("backs", "guesses", now, back=back.name, guesses=count, bytes=len(data))
            elif back.side.asked:
                back.news.set()

    async def _write(self, out: _Out, back: _Back) -> None:
        while True:
            back.news.clear()
            for message in back.side.send(time.perf_counter()):
                if self._trace.on:
                    kind = pb.LeadMessage.FromString(message).WhichOneof("kind")
                    self._trace.instant(
                        "backs", f"send {kind}", time.perf_counter(), back=back.name, bytes=len(message)
                    )
                await out.send(message)
            await back.news.wait()

    async def _watch(self, back: _Back) -> None:
        """End when nothing has been heard for too long: a back that hangs may also make `_write` hang."""
        while not back.side.lost(time.perf_counter()) and not back.replaced:
            await asyncio.sleep(LOOK_EVERY)
            back.news.set()  # a ping may be due
        log.info("back %s has been silent for too long", back.name)


async def _first_of(*coroutines: Awaitable[None]) -> None:
    """Run them together until one ends; its exception is ours."""
    tasks = [asyncio.ensure_future(c) for c in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
