"""Hands a request on to the lead of its model, and the answer back, as it comes.

While the model loads, a request for a stream is answered early: comments of server-sent events say what it waits for.
Whole requests wait, and a header of the answer says how long they did.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable, Mapping

import httpx2
from fastapi.responses import Response
from pydantic_core import from_json
from starlette.types import Message, Receive, Scope, Send

from duo.errors import DuoError
from lead.http.errors import ModelUnavailableError, error_of, named_event, style_of
from lead.http.owner import HEADER, owner_of
from lead.http.stream import unless_gone
from lead.models.pool import Claim, Loaded, Pool

QUIET_SECONDS = 1.0
"""A stream whose model takes longer to load begins with comments. Until then a refusal still has its own status."""
COMMENT_SECONDS = 5.0
"""Between two comments: less than what clients and proxies wait for a byte."""
LAST_SECONDS = 2.0
"""For the end of a process after its connection broke."""
WAITED = b"x-model-wait"
OWNER = HEADER.encode()
EVENT_END = b"\n\n"

HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization te trailer transfer-encoding upgrade".split()
) | {b"date", b"server"}
"""Headers of one connection, and those that every server sets itself."""
_OURS = HOP | {b"host", b"content-length", b"authorization", b"x-api-key", b"origin", b"expect", OWNER}

_EVENTS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class Forwarded(Response):
    """The answer of a model's own lead. The model is loaded first if need be."""

    def __init__(self, pool: Pool, name: str, body: bytes, streamed: bool) -> None:
        super().__init__()
        self._pool, self._name = pool, name
        self._content = body
        self._streamed = streamed
        self._began = False
        """The client has the head of a stream of events, and hears of errors as events."""
        self._events = 0
        """Events of the answer that were handed on."""
        self._last = b""
        """The last byte of the answer, if the next one may make it the end of an event."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._pool.claim(self._name) as claim:
            await unless_gone(receive, (), self._answer(claim, scope, send))

    async def _answer(self, claim: Claim, scope: Scope, send: Send) -> None:
        asked = time.monotonic()
        if self._streamed and claim.waits:
            await self._wait(claim, send)
        try:
            waited = claim.waits
            loaded = await claim.loaded()
            headers = [(WAITED, f"{time.monotonic() - asked:.1f}".encode())] if waited else []
            await self._pass_on(loaded, scope, send, headers)
        except DuoError as error:
            if not self._began:
                raise
            await self._fail(scope, send, error_of(error, style_of(scope["path"])))

    async def _wait(self, claim: Claim, send: Send) -> None:
        """Tell the client of a stream that the model loads."""
        pause, comment = QUIET_SECONDS, f": {self._name} is loading\n\n".encode()
        while claim.waits:
            try:
                async with asyncio.timeout(pause):
                    await claim.decided.wait()
            except TimeoutError:
                if not self._began:
                    self._began = True
                    await send({"type": "http.response.start", "status": 200, "headers": _EVENTS})
                await send(_body(comment))
                pause = COMMENT_SECONDS

    async def _pass_on(self, loaded: Loaded, scope: Scope, send: Send, more: list[tuple[bytes, bytes]]) -> None:
        request = request_of(loaded, scope, self._content)
        try:
            response = await loaded.http.send(request, stream=True)
        except httpx2.TransportError:
            raise await broken(self._pool, loaded) from None
        try:
            if self._began and response.status_code != 200:
                await self._fail(scope, send, _error_in(await response.aread()))
                return
            if not self._began:
                headers = [*kept(response.headers.raw, HOP), *more]
                start = {"type": "http.response.start", "status": response.status_code, "headers": headers}
                await send(start)
                self._began = response.headers.get("content-type", "").startswith("text/event-stream")
            async for chunk in response.aiter_raw():
                self._count(chunk)
                await send(_body(chunk))
            await send(_body(b"", more=False))
        except httpx2.TransportError:
            if not self._began:
                return  # the server closes the connection, because the answer is not complete
            error = await broken(self._pool, loaded)
            await self._fail(scope, send, error_of(error, style_of(scope["path"])))
        finally:
            await response.aclose()

    def _count(self, chunk: bytes) -> None:
        """Count the events that end in it. Two chunks may share the end of one."""
        text = self._last + chunk
        self._events += text.count(EVENT_END)
        self._last = b"" if text.endswith(EVENT_END) else text[-1:]

    async def _fail(self, scope: Scope, send: Send, error: Mapping[str, object]) -> None:
        """End a stream that has begun with an error, in the form of its API."""
        events = style_of(scope["path"]).ending(self._name, error, self._events)
        # What came before may have broken off in the middle of an event, which must not take up this one.
        await send(_body(EVENT_END + "".join(map(named_event, events)).encode(), more=False))


async def broken(pool: Pool, loaded: Loaded) -> ModelUnavailableError:
    """The error for a connection to a model that broke. Most often its process is ending."""
    try:
        async with asyncio.timeout(LAST_SECONDS):
            await loaded.gone.wait()
    except TimeoutError:
        return ModelUnavailableError(f"{loaded.name} has closed the connection: try again")
    return ModelUnavailableError(pool.why_gone(loaded.name))


def request_of(loaded: Loaded, scope: Scope, body: bytes) -> httpx2.Request:
    """The client's request, for the model's own lead."""
    query = scope["query_string"]
    target = scope.get("raw_path") or scope["path"].encode()
    url = loaded.http.base_url.copy_with(raw_path=target + (b"?" + query if query else b""))
    ours = [(b"authorization", loaded.http.headers["authorization"].encode()), (OWNER, owner_of(scope).encode())]
    headers = [*kept(scope["headers"], _OURS), *ours]
    return loaded.http.build_request(scope["method"], url, headers=headers, content=body or None)


def kept(headers: Iterable[tuple[bytes, bytes]], without: Collection[bytes]) -> list[tuple[bytes, bytes]]:
    """Headers without some."""
    return [(name, value) for name, value in headers if name.lower() not in without]


def _error_in(body: bytes) -> Mapping[str, object]:
    """The error object in a refusal of a model's own lead."""
    try:
        found = from_json(body)
    except ValueError:
        found = None
    return found if isinstance(found, dict) and "error" in found else error_of(None)


def _body(content: bytes, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": content, "more_body": more}
