"""Answers for as long as the client listens: whole, or as server-sent events.

The event loop shares the interpreter lock with the decode loop. So little may run per batch.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple, Protocol, TypeVar

from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from duo.errors import DuoError
from lead.api import CLIENT_GONE, Answer, Piece, Summary
from lead.http.errors import json_response

log = logging.getLogger("lead.http.streams")

WAITING_SECONDS = 10.0
"""Between two signs of life of a stream whose answer has not begun. A long prompt takes minutes on a small machine."""

T = TypeVar("T")


async def respond(
    request: Request,
    answers: Sequence[Answer],
    body: Callable[[Sequence[Sequence[Piece]]], Mapping[str, object]],
    stream: AsyncGenerator[str, None] | None = None,
) -> Response:
    """The response: the `body` made of the complete answers, or the `stream` of events if there is one.

    Raises DuoError if a whole answer breaks off.
    """
    if stream is not None:
        return EventStream(answers, stream)
    pieces = await unless_gone(request.receive, answers, _all(answers))
    return Response(status_code=CLIENT_GONE) if pieces is None else json_response(body(pieces))


class Envelope(BaseModel):
    """How every body and every event begins. `head_of` makes it."""

    id: str
    object: str
    created: int
    model: str


def head_of(kind: str, shape: str, model: str) -> dict[str, object]:
    """How every body and every event begins. `kind`: prefix of the id. `shape`: OpenAI's name of the object."""
    return {"id": f"{kind}-{secrets.token_hex(12)}", "object": shape, "created": int(time.time()), "model": model}


async def _all(answers: Sequence[Answer]) -> list[list[Piece]]:
    async def collected(answer: Answer) -> list[Piece]:
        return [piece async for batch in answer for piece in batch]

    tasks = [asyncio.ensure_future(collected(answer)) for answer in answers]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def unless_gone(receive: Receive, answers: Sequence[Answer], reading: Coroutine[Any, Any, T]) -> T | None:
    """The result of `reading` the answers, or None if the client goes away first. Either way the answers end here."""
    reader = asyncio.ensure_future(reading)
    leaving = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((reader, leaving), return_when=asyncio.FIRST_COMPLETED)
        return reader.result() if reader.done() else None
    finally:
        for answer in answers:
            answer.cancel()
        reader.cancel()
        leaving.cancel()
        await asyncio.gather(reader, leaving, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(StreamingResponse):
    """Server-sent events. They end the answers as soon as the client goes away."""

    def __init__(self, answers: Sequence[Answer], events: AsyncGenerator[str, None]) -> None:
        # The headers stop proxies from collecting the chunks.
        super().__init__(
            events, media_type="text/event-stream", headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        )
        self._answers, self._events = answers, events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def pump() -> None:
            async with aclosing(self._events):
                await self.stream_response(send)

        await unless_gone(receive, self._answers, pump())


class Writer(Protocol):
    """Writes one answer as events of a stream. Each result is whole events, or empty."""

    def begin(self) -> str: ...

    def batch(self, pieces: Sequence[Piece]) -> str: ...

    def end(self, summary: Summary) -> str: ...


class StreamStyle(NamedTuple):
    """What an API's streams have beside the answers.

    failed: the event of an error; None stands for one that nobody expected. tail: what follows the last answer.
    waiting: sent now and then until the answer begins; empty if nothing is.
    """

    failed: Callable[[DuoError | None], str]
    tail: Callable[[], str]
    waiting: str = ""


async def events(answers: Sequence[Answer], writers: Sequence[Writer], style: StreamStyle) -> AsyncGenerator[str, None]:
    """Merges the answers, each with its own writer, into one stream.

    The client has status 200 already, so an error becomes an event and ends the stream.
    """
    yield "".join([writer.begin() for writer in writers])
    one = len(answers) == 1
    try:
        async with aclosing(_one(answers[0], writers[0]) if one else _several(answers, writers)) as texts:
            if style.waiting:
                async for text in _signs(texts, style.waiting):
                    if text:
                        yield text
            async for text in texts:
                if text:
                    yield text
    except DuoError as error:
        yield style.failed(error)
        return
    except Exception:
        log.exception("an answer broke off")
        yield style.failed(None)
        return
    yield style.tail()


async def _signs(texts: AsyncGenerator[str, None], sign: str) -> AsyncGenerator[str, None]:
    """The first of the texts, and signs of life before it."""
    first = asyncio.ensure_future(anext(texts, ""))
    try:
        while not first.done():
            await asyncio.wait([first], timeout=WAITING_SECONDS)
            yield first.result() if first.done() else sign
    finally:
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)


async def _one(answer: Answer, writer: Writer) -> AsyncGenerator[str, None]:
    async for batch in answer:
        yield writer.batch(batch)
    yield writer.end(answer.summary)


async def _several(answers: Sequence[Answer], writers: Sequence[Writer]) -> AsyncGenerator[str, None]:
    # Bounded, so that a slow client fills no memory.
    texts: asyncio.Queue[str | BaseException | None] = asyncio.Queue(len(answers))

    async def read(answer: Answer, writer: Writer) -> None:
        try:
            async with aclosing(_one(answer, writer)) as told:
                async for text in told:
                    await texts.put(text)
        except Exception as error:
            await texts.put(error)
        else:
            await texts.put(None)

    tasks = [asyncio.ensure_future(read(answer, writer)) for answer, writer in zip(answers, writers, strict=True)]
    try:
        left = len(tasks)
        while left:
            text = await texts.get()
            if isinstance(text, BaseException):
                raise text
            if text is None:
                left -= 1
            else:
                yield text
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
