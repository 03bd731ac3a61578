"""The port for backs of several models: each stream is handed on to the lead of a model with the back's vocabulary.

Bytes pass as they are. A back whose model is not loaded waits on its stream. When a model is put away, its streams end:
the backs come again and wait, or go to another model of their vocabulary.

The model's own lead finds out whether a vocabulary is the right one: from the Hello and, if need be, from what the
tokens mean. What it found is remembered.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from typing import Literal

import grpc

from duo.errors import ProtocolError, RefusedError
from duo.v1 import duo_pb2 as pb
from duo.wire.front_side import FrontSide, verdict
from duo.wire.lead_side import refusal_of, too_many_backs
from duo.wire.messages import MAX_MESSAGE_BYTES, METHOD, PING_EVERY
from lead.api import BackView
from lead.backs.admission import Admission, Refusals, host_of
from lead.backs.out import SETTLE_SECONDS, Out, Stream, first_of
from lead.models.places import Place, better, choose
from lead.models.pool import Loaded, Pool

log = logging.getLogger("lead")

HELLO_SECONDS = 10.0
COMING = 64
"""Messages of a back that wait to be handed on."""
MAX_PAIRS = 4096
"""Vocabularies of backs and models that are remembered together."""
REBALANCE_SECONDS = 1.0

Call = grpc.aio.StreamStreamCall[bytes, bytes]
Outcome = Literal["ended", "unsuited"]


class _Visitor:
    """One stream of a back."""

    def __init__(self, side: FrontSide, out: Out, peer: str) -> None:
        self.side, self.out, self.peer = side, out, peer
        self.coming: asyncio.Queue[bytes | None] = asyncio.Queue(COMING)
        """Messages of the back; None at its end."""
        self.news = asyncio.Event()
        """Models have come or gone."""
        self.model: str | None = None
        """The model whose lead has the stream."""
        self.welcomed = False
        self.compared = False
        """The vocabulary was compared on this stream, which is possible once."""
        self.moving = asyncio.Event()


class BackPort:
    """All backs of all models. Lives in the event loop."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._visitors: set[_Visitor] = set()
        self._suits: dict[tuple[str, str], bool] = {}
        """By vocabulary of a back and name of a model: whether they work together."""
        self._refusals = Refusals()
        self._server: grpc.aio.Server | None = None
        self._rebalancing: asyncio.Task[None] | None = None
        self.admission = Admission()
        pool.on_change.append(self._changed)

    async def serve(self, host: str, port: int, admission: Admission) -> int:
        """Listen; returns the port. Raises AddressError, and FileError for a wrong certificate."""
        self.admission = admission
        self._server = server = admission.server(self.serve_stream)
        bound = admission.open(server, host, port)
        await server.start()
        self._rebalancing = asyncio.ensure_future(self._rebalance())
        return bound

    async def stop(self) -> None:
        if self._rebalancing is not None:
            self._rebalancing.cancel()
        if self._server is not None:
            await self._server.stop(0.2)

    def held(self) -> Sequence[BackView]:
        """The backs that wait for a model of their vocabulary."""
        waiting = (visitor.side.back for visitor in self._visitors if not visitor.welcomed)
        return [BackView(back.name, back.model, "waiting", None, 0, 0) for back in waiting]

    async def serve_stream(self, requests: AsyncIterator[bytes], stream: Stream) -> None:
        """One stream, from its first message to its end."""
        out, visitor = Out(stream), None
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                side = FrontSide(await anext(requests), time.perf_counter())
            if len(self._visitors) >= self.admission.backs:
                raise too_many_backs(self.admission.backs)
            visitor = _Visitor(side, out, stream.peer())
            self._visitors.add(visitor)
            await first_of(self._read(requests, visitor), self._host(visitor))
        except (ProtocolError, RefusedError) as error:
            self._refusals.log(visitor.side.back.name if visitor else host_of(stream.peer()), error)
            if await out.settle():
                with contextlib.suppress(TimeoutError):  # it may not listen
                    await asyncio.wait_for(out.send(refusal_of(error)), SETTLE_SECONDS)
        except (StopAsyncIteration, TimeoutError):
            log.debug("a stream from %s ended before it began", stream.peer())
        finally:
            if visitor is not None:
                self._visitors.discard(visitor)
            await out.settle()

    async def _read(self, requests: AsyncIterator[bytes], visitor: _Visitor) -> None:
        async for data in requests:
            visitor.side.received_at = time.perf_counter()
            await visitor.coming.put(data)
        await visitor.coming.put(None)
        await asyncio.get_running_loop().create_future()  # `_host` ends the stream when it has handed on all

    async def _host(self, visitor: _Visitor) -> None:
        """Hands the stream on to one model after the other, until one has taken it and ended it."""
        while True:
            visitor.news.clear()
            name = choose(self._places(visitor))
            if name is None:
                if not await self._wait(visitor):
                    return
                continue
            outcome = await self._hand_on(visitor, self._pool.loaded[name])
            if outcome != "unsuited" or visitor.compared:
                return  # the back comes again, and a fresh stream can compare anew

    async def _wait(self, visitor: _Visitor) -> bool:
        """Keep the stream until models have come or gone. Returns whether the back is still there."""
        names = [model.name for model in self._pool.settings.models]
        fingerprint, model = visitor.side.back.fingerprint, visitor.side.back.model
        if all(self._suits.get((fingerprint, name)) is False for name in names):
            raise RefusedError(
                f"the draft model {model!r} has the vocabulary of no model here: use a draft of the same family as one",
                pb.Refusal.REASON_VOCABULARY,
            )
        while not visitor.news.is_set():
            now = time.perf_counter()
            if visitor.side.lost(now):
                return False
            for message in visitor.side.wait("no model with its vocabulary is loaded now", now):
                await visitor.out.send(message)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PING_EVERY):
                    await visitor.news.wait()
            while not visitor.coming.empty():
                if visitor.coming.get_nowait() is None:
                    return False
        return True

    async def _hand_on(self, visitor: _Visitor, loaded: Loaded) -> Outcome:
        """The stream of a back with the lead of one model."""
        options = [("grpc.max_receive_message_length", MAX_MESSAGE_BYTES), ("grpc.use_local_subchannel_pool", 1)]
        outcome: Outcome = "ended"
        visitor.model = loaded.name
        visitor.moving.clear()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{loaded.ready.back_port}", options=options) as channel:
                call: Call = channel.stream_stream(METHOD)(metadata=(("authorization", f"Bearer {loaded.token}"),))

                async def down() -> None:
                    nonlocal outcome
                    outcome = await self._down(visitor, call, loaded.name)

                async def moved() -> None:
                    await visitor.moving.wait()

                try:
                    await call.write(visitor.side.hello)
                    await first_of(down(), self._up(visitor, call), moved())
                finally:
                    call.cancel()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return "ended"  # the process of the model ends, or has never answered
        finally:
            visitor.model = None
            if visitor.welcomed:
                log.info("back %s leaves %s", visitor.side.back.name, loaded.name)
        return outcome

    async def _down(self, visitor: _Visitor, call: Call, name: str) -> Outcome:
        while isinstance(data := await call.read(), bytes):
            if not visitor.welcomed:
                match verdict(data):
                    case "welcome":
                        visitor.welcomed = True
                        self._learn(visitor, name, True)
                        log.info("back %s drafts for %s, from %s", visitor.side.back.name, name, visitor.peer)
                    case "unsuited" if visitor.side.looks:
                        await visitor.out.send(data)
                        return "ended"
                    case "unsuited":
                        self._learn(visitor, name, False)
                        return "unsuited"
                    case "compare" if visitor.compared:
                        return "ended"
                    case "compare":
                        visitor.compared = True
            await visitor.out.send(data)
        return "ended"

    async def _up(self, visitor: _Visitor, call: Call) -> None:
        while (data := await visitor.coming.get()) is not None:
            await call.write(data)
        await call.done_writing()
        await asyncio.get_running_loop().create_future()  # the model's lead ends the stream

    def _learn(self, visitor: _Visitor, name: str, suits: bool) -> None:
        if len(self._suits) >= MAX_PAIRS:
            self._suits.clear()
        self._suits[visitor.side.back.fingerprint, name] = suits

    def _places(self, visitor: _Visitor) -> list[Place]:
        """The loaded models that this back may draft for."""
        found = []
        for loaded in self._pool.loaded.values():
            name, entry = loaded.name, self._pool.entries[loaded.name]
            fingerprint = visitor.side.back.fingerprint
            suits = self._suits.get((fingerprint, name), None if fingerprint != loaded.ready.fingerprint else True)
            if suits is not False and entry.status == "loaded":
                backs = sum(other.model == name for other in self._visitors)
                found.append(Place(name, bool(suits), entry.active > 0, backs, entry.used))
        return found

    def _changed(self) -> None:
        for visitor in self._visitors:
            visitor.news.set()

    async def _rebalance(self) -> None:
        """Backs of models that nobody asks move to models that somebody asks, one at a time."""
        while True:
            await asyncio.sleep(REBALANCE_SECONDS)
            for visitor in self._visitors:
                places = self._places(visitor)
                here = next((place for place in places if place.name == visitor.model), None)
                if visitor.welcomed and here and better(here, places, time.monotonic()):
                    visitor.moving.set()
                    break
