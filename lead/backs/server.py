"""The lead's port for backs: one gRPC stream per back, around `duo.wire.lead_side.LeadSide`.

Guesses go into the decoder's inbox. Committed tokens go out as the difference between the ledger and what each back has
been sent, so nothing piles up for a slow back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Sequence

import grpc

from duo.errors import ProtocolError, RefusedError
from duo.trace import Trace
from duo.wire.codec import kind_of
from duo.wire.lead_side import LeadSide, too_many_backs
from duo.wire.ledger import Ledger
from duo.wire.messages import LOOK_EVERY, Guessed, Identity, PingCame, State, StatusCame
from lead.api import BackView
from lead.backs.admission import Admission, Allowance, Refusals, host_of
from lead.backs.out import SETTLE_SECONDS, Out, Stream, first_of
from lead.decode.inbox import Message
from lead.decode.loop import Decoder
from lead.decode.session import Step, Tally
from lead.decode.sources import NAMES

log = logging.getLogger("lead")

HELLO_SECONDS = 10.0
"""For the first message of a stream."""


class _Back:
    """A connected back."""

    def __init__(self, side: LeadSide) -> None:
        self.side = side
        self.state: State = "waiting"
        self.news = asyncio.Event()
        """There may be something to send."""
        self.replaced = False
        """The same back has opened another stream."""
        self.total = Tally()
        self.warned = False
        """Its excess of guesses was logged."""

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
        """Streams on which vocabularies are being compared."""
        self._refusals = Refusals()
        self.admission = Admission()

    async def serve(self, host: str, port: int, admission: Admission) -> int:
        """Listen; returns the port. Raises AddressError, and FileError for a wrong certificate."""
        self.admission = admission
        server = admission.server(self.serve_stream)
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
        """The ledger has changed."""
        for back in self._backs.values():
            back.news.set()

    def count(self, step: Step) -> None:
        """Add the verified guesses of a step to the totals of the connected backs."""
        for name, tally in step.by_back.items():
            if (back := self._backs.get(name)) is not None:
                back.total.add(tally)

    def view(self) -> Sequence[BackView]:
        now, benefit = time.perf_counter(), self._decoder.speculation.benefit
        rests = benefit is not None and benefit.state == "resting"
        return [
            BackView(
                name=back.name,
                model=back.side.back.model if back.side.back else "",
                state="silent" if back.side.silent(now) else "resting" if rests else back.state,
                round_trip_ms=None if back.side.round_trip is None else back.side.round_trip * 1000,
                drafted=back.total.drafted,
                accepted=back.total.accepted,
            )
            for back in self._backs.values()
        ]

    async def serve_stream(self, requests: AsyncIterator[bytes], stream: Stream) -> None:
        """One stream, from its first message to its end."""
        side = LeadSide(self._me, self._ledger, time.perf_counter())
        back, out = _Back(side), Out(stream)
        joined = False
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                side.receive(await anext(requests), time.perf_counter())
            if not side.greeted:
                await self._compare(requests, side, out)
            self._join(back)
            joined = True
            self._decoder.speculation.joined(back.name)
            log.info("back %s joined: %s, from %s", back.name, side.back.model if side.back else "", stream.peer())
            if side.comparison is not None:
                log.info("back %s: %s", back.name, side.comparison)
            await first_of(self._read(requests, back), self._write(out, back), self._watch(back))
            log.info("back %s left", back.name)
        except (ProtocolError, RefusedError) as error:
            if side.looks:
                log.info("back %s looks for a draft model with this vocabulary", back.name)
            else:
                self._refusals.log(back.name if side.back else host_of(stream.peer()), error)
            if await out.settle():
                with contextlib.suppress(TimeoutError):  # it may not listen
                    await asyncio.wait_for(out.send(side.refusal(error)), SETTLE_SECONDS)
        except (StopAsyncIteration, TimeoutError):
            log.debug("a stream from %s ended before it began", stream.peer())
        except asyncio.CancelledError:
            if joined:
                log.info("back %s is gone", back.name)
            raise
        finally:
            if joined and self._backs.get(back.name) is back:
                # Another stream of the same back may have taken its place.
                self._decoder.speculation.left(back.name)
                del self._backs[back.name]
                self._decoder.inbox.drop(back.name)
            await out.settle()

    async def _compare(self, requests: AsyncIterator[bytes], side: LeadSide, out: Out) -> None:
        """Compare the vocabularies. Raises RefusedError if they differ too much, or if the back is too slow.

        Meanwhile the stream counts as a back, because it costs as much.
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
        """Raises RefusedError if there are as many backs as are allowed."""
        if len(self._backs) + self._comparing >= self.admission.backs:
            raise too_many_backs(self.admission.backs)

    def _join(self, back: _Back) -> None:
        self._admit()
        wanted, number = back.name, 2
        while (other := self._backs.get(back.name)) is not None or back.name in NAMES:
            if other is not None and other.side.silent(time.perf_counter()):
                other.replaced = True  # the same back, after a connection that broke silently
                break
            back.side.rename(f"{wanted}-{number}")
            number += 1
        self._backs[back.name] = back

    async def _read(self, requests: AsyncIterator[bytes], back: _Back) -> None:
        allowance = Allowance(self.admission.guesses, time.perf_counter())
        async for data in requests:
            now = time.perf_counter()
            match back.side.receive(data, now):
                case Guessed(count, _) if not allowance.takes(count, now):
                    if not back.warned:
                        back.warned, most = True, self.admission.guesses
                        log.warning("back %s guesses more than --max-guesses %d: the rest is dropped", back.name, most)
                case Guessed(count, sessions):
                    self._decoder.inbox.put(Message(back.name, now, sessions))
                    self._trace.instant("backs", "guesses", now, back=back.name, guesses=count, bytes=len(data))
                case StatusCame(state):
                    back.state = state
                case PingCame():
                    back.news.set()

    async def _write(self, out: Out, back: _Back) -> None:
        while True:
            back.news.clear()
            for message in back.side.send(time.perf_counter()):
                if self._trace.on:
                    self._trace.instant(
                        "backs", f"send {kind_of(message)}", time.perf_counter(), back=back.name, bytes=len(message)
                    )
                await out.send(message)
            await back.news.wait()

    async def _watch(self, back: _Back) -> None:
        """Ends after a long silence. `_write` cannot notice it: a back that hangs may block it."""
        while not back.side.lost(time.perf_counter()) and not back.replaced:
            await asyncio.sleep(LOOK_EVERY)
            back.news.set()  # a ping may be due
        log.info("back %s has been silent for too long", back.name)
