"""The back's gRPC stream to its lead, opened again and again, around `duo.wire.back_side.BackSide`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import grpc

from back.drafter import Drafter
from back.drafting import Found
from back.reach import broken, unreachable
from back.tls import ClientTls, why
from duo.engines.meaning import Sample
from duo.errors import DuoError, ProtocolError, RefusedError, first_line
from duo.trace import Trace
from duo.wire.back_side import BackSide
from duo.wire.messages import (
    LOOK_EVERY,
    MAX_MESSAGE_BYTES,
    METHOD,
    Begun,
    BenefitCame,
    CommittedTokens,
    Ended,
    Event,
    Identity,
    PingCame,
    WaitCame,
    Welcomed,
)

log = logging.getLogger("back")

FIRST_WAIT, LONGEST_WAIT, REFUSED_WAIT = 0.2, 5.0, 15.0
"""Seconds between two tries. They grow from the first to the longest; after a refusal there is no hurry."""

READER_WITHIN = 1.0
"""Seconds for the reader to say why a stream ended, once something else has noticed its end."""

OUTBOX = 256
"""Messages that wait for a slow lead. Beyond that the oldest are dropped: guesses may be lost."""

PROBES = 8
"""Quick pings at the start of a traced stream. The quickest one tells how far the clocks are apart."""

HEARD: dict[type[Event], str] = {Welcomed: "welcome", Begun: "begin", CommittedTokens: "commit", Ended: "end"}
"""Names of the lead's messages in a trace, the same as on the lead."""

OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # Each try opens its own connection, or gRPC would add its back-off to ours.
    ("grpc.use_local_subchannel_pool", 1),
]

Stream = grpc.aio.StreamStreamCall[bytes, bytes]


class Link:
    """Carries messages between the lead and a drafter. Lives in the event loop, except for `send` and `fail`."""

    def __init__(
        self,
        address: str,
        me: Identity,
        trace: Trace,
        token: str = "",
        tls: ClientTls | None = None,
        look: Callable[[], Awaitable[str]] | None = None,
        unsuited: Callable[[Sample], Awaitable[None]] | None = None,
    ) -> None:
        """`look` finds the lead when it has left this address. `unsuited` hears of a target's vocabulary that is not
        the draft model's, once for each."""
        self._unsuited = unsuited
        self._refused_by: set[str] = set()
        """Fingerprints of vocabularies that `unsuited` has heard of."""
        self._address = address
        self._me = me
        self._look = look
        self._tls = tls
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._trace = trace
        self._ahead: float | None = None
        self._side = BackSide(me, time.perf_counter())
        self._loop = asyncio.get_running_loop()
        self._outbox: deque[bytes] = deque(maxlen=OUTBOX)
        self._news = asyncio.Event()
        self._error: DuoError | None = None
        self._last_logged = ""

    async def run(self, drafter: Drafter) -> None:
        """Connect and draft until cancelled. `drafter` sends through this link."""
        drafter.start()
        wait = FIRST_WAIT
        try:
            while True:
                self._side = side = BackSide(self._me, time.perf_counter(), PROBES if self._trace.on else 0)
                wait = await self._attempt(side, self._stream(side, drafter), wait)
                if side.target is not None and self._unsuited and side.target.fingerprint not in self._refused_by:
                    self._refused_by.add(side.target.fingerprint)
                    await self._unsuited(side.target)
                wait = await self._pause(wait)
        finally:
            await asyncio.to_thread(drafter.stop)

    async def vocabulary(self) -> Sample:
        """Shows the target's vocabulary. Connects until a lead has said it, or until cancelled."""
        wait = FIRST_WAIT
        while True:
            side = BackSide(self._me, time.perf_counter(), looks=True)
            wait = await self._attempt(side, self._look_at(side), wait)
            if side.target is not None:
                return side.target
            wait = await self._pause(wait)

    async def _attempt(self, side: BackSide, stream: Awaitable[None], wait: float) -> float:
        """One stream, to its end, and a line that says why it ended. Returns the seconds until the next try."""
        try:
            # gRPC's Python raises InvalidStateError for a write to a stream that has ended.
            with contextlib.suppress(asyncio.InvalidStateError):
                await stream
            if side.target is None:
                self._say(f"lost the lead at {self._address}: it closed the stream")
        except RefusedError as error:
            self._say(f"refused by the lead at {self._address}: {error}")
            wait = REFUSED_WAIT
        except ProtocolError as error:
            self._say(f"gave up the stream to {self._address}: {error}")
        except grpc.aio.AioRpcError as error:
            log.debug("gRPC: %s", error.details() or error.code().name)
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                # The lead's own words.
                self._say(f"refused by the lead at {self._address}: {first_line(error.details())}")
                wait = REFUSED_WAIT
            elif not side.welcomed and (words := await why(self._address, self._tls)) is not None:
                self._say(f"no lead for this back at {self._address}: {words}")
                wait = REFUSED_WAIT
            elif side.welcomed:
                self._say(f"lost the lead at {self._address}: {broken(error.code())}")
            else:
                self._say(f"no lead at {self._address}: {await unreachable(self._address)}")
                if self._look is not None:
                    self._address = await self._look()
        return FIRST_WAIT if side.welcomed or side.waits else wait

    @staticmethod
    async def _pause(wait: float) -> float:
        """Wait before the next try. Returns the seconds of the pause after it."""
        await asyncio.sleep(wait * random.uniform(0.8, 1.2))
        return min(wait * 1.6, LONGEST_WAIT)

    async def _look_at(self, side: BackSide) -> None:
        """A stream that ends when the lead has shown its vocabulary. Raises as `_stream` does."""
        await self._converse(side, side.hello([]), lambda call: [self._read_vocabulary(call, side)])

    async def _read_vocabulary(self, call: Stream, side: BackSide) -> None:
        while isinstance(data := await call.read(), bytes):
            try:
                came = side.receive(data, time.perf_counter())
            except RefusedError:
                if side.target is None:
                    raise
                return
            if isinstance(came, WaitCame):
                log.info("the lead at %s lets this back wait: %s", self._address, came.message)
            for message in side.send(time.perf_counter()):
                await call.write(message)
        await _check_end(call)

    def _say(self, words: str) -> None:
        """Log it, unless it was logged last."""
        if words != self._last_logged:
            log.warning("%s; trying again", words)
        self._last_logged = words

    async def _stream(self, side: BackSide, drafter: Drafter) -> None:
        """One stream, to its end."""
        self._outbox.clear()
        self._error = None
        hello = side.hello(drafter.drafting.known())
        await self._converse(
            side, hello, lambda call: [self._read(call, side, drafter), self._write(call, side, drafter)]
        )

    async def _converse(
        self, side: BackSide, hello: bytes, jobs: Callable[[Stream], list[Coroutine[Any, Any, None]]]
    ) -> None:
        """One call, until one of its jobs ends or the lead is silent for too long. The first of the jobs reads."""
        async with self._channel() as channel:
            call: Stream = channel.stream_stream(METHOD)(metadata=self._metadata)
            await call.write(hello)
            tasks = [asyncio.ensure_future(job) for job in (*jobs(call), self._watch(side))]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                # The reader knows better why a stream ended.
                if tasks[0] not in done:
                    await asyncio.wait(tasks[:1], timeout=READER_WITHIN)
                for task in tasks:
                    if task.done():
                        task.result()
            finally:
                for task in tasks:
                    task.cancel()
                call.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def _channel(self) -> grpc.aio.Channel:
        if self._tls is None:
            return grpc.aio.insecure_channel(self._address, options=OPTIONS)
        return grpc.aio.secure_channel(self._address, self._tls.credentials(), options=OPTIONS)

    async def _read(self, call: Stream, side: BackSide, drafter: Drafter) -> None:
        while isinstance(data := await call.read(), bytes):
            now = time.perf_counter()
            came = side.receive(data, now)
            if isinstance(came, WaitCame):
                log.info("the lead at %s lets this back wait: %s", self._address, came.message)
                self._last_logged = ""
                continue
            if isinstance(came, BenefitCame):
                log.info("%s", came.message)
                continue
            event = None if isinstance(came, PingCame) else came
            if self._trace.on:
                self._record(side, event, now, len(data))
            if isinstance(event, Welcomed):
                self._last_logged = ""
                log.info("joined the lead at %s as %s: target %s", self._address, event.name, event.model)
                if event.difference:
                    log.info("%s: those are not guessed", event.difference)
            if event is not None:
                drafter.hear(event)
            else:
                self._news.set()
        await _check_end(call)

    def _record(self, side: BackSide, event: Event | None, now: float, size: int) -> None:
        """Trace a message. After a pong the distance of the clocks may be known better."""
        if isinstance(event, Welcomed):
            self._trace.title(f"back {event.name}: {self._me.model}")
        if event is not None:
            self._trace.instant("lead", HEARD[type(event)], now, bytes=size)
        ahead = side.offset.ahead
        if ahead is not None and ahead != self._ahead:
            self._ahead = ahead
            self._trace.clock(ahead)
            round_trip = round(side.offset.round_trip * 1000, 4)
            self._trace.instant("lead", "clock", now, ahead_ms=round(ahead * 1000, 4), round_trip_ms=round_trip)

    async def _write(self, call: Stream, side: BackSide, drafter: Drafter) -> None:
        while True:
            self._news.clear()
            if self._error is not None:
                raise self._error
            side.state = drafter.drafting.state
            for message in side.send(time.perf_counter()):
                await call.write(message)
            while side.welcomed and self._outbox:
                await call.write(self._outbox.popleft())
            await self._news.wait()

    async def _watch(self, side: BackSide) -> None:
        """Ends after a long silence. `_write` cannot notice it: a lead that hangs may block it."""
        while not side.lost(time.perf_counter()):
            await asyncio.sleep(LOOK_EVERY)
            self._news.set()  # a ping may be due
        raise ProtocolError("nothing was heard from it for too long")

    def send(self, found: Found) -> None:
        """Called from the drafter's thread."""
        messages = list(self._side.guesses(found))
        expansions, size = sum(map(len, found.values())), sum(map(len, messages))
        self._trace.instant("drafter", "send", time.perf_counter(), expansions=expansions, bytes=size)
        self._call(self._outbox.extend, messages)

    def fail(self, error: DuoError) -> None:
        """Called from the drafter's thread."""
        self._call(setattr, self, "_error", error)

    def _call(self, change: Callable[..., object], *arguments: object) -> None:
        def apply() -> None:
            change(*arguments)
            self._news.set()

        try:
            self._loop.call_soon_threadsafe(apply)
        except RuntimeError:
            return  # the event loop is closed: the program ends


async def _check_end(call: Stream) -> None:
    """The status of a stream says why it ended. Raises AioRpcError."""
    if await call.code() is not grpc.StatusCode.OK:
        raise grpc.aio.AioRpcError(
            await call.code(), await call.initial_metadata(), await call.trailing_metadata(), await call.details()
        )
