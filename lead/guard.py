"""What stands before the HTTP side: API keys, the limit on a body's size, CORS. Pure ASGI: streams pass untouched.

A body is read here, up to its limit, and handed on whole: who may not ask, or asks too much, never reaches the app.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lead.credentials import matches

PUBLIC = frozenset({"/", "/favicon.ico", "/health", "/v1/health"})
"""What needs no key: whether the lead is well, and the page, which asks for the key."""
PUBLIC_FILES = "/static/"


def guarded(app: ASGIApp, keys: Sequence[str], max_body: int, origins: Sequence[str] = ()) -> ASGIApp:
    """The app, for those who have one of the keys (none: for all). `max_body`: bytes; `origins`: for CORS, or "*"."""
    app = _Guard(app, keys, max_body)
    if origins:
        # Outermost: a browser sends no key with its question whether it may ask, and must be able to read a 401.
        app = CORSMiddleware(app, allow_origins=origins, allow_methods=["*"], allow_headers=["*"])
    return app


class _Guard:
    def __init__(self, app: ASGIApp, keys: Sequence[str], max_body: int) -> None:
        self._app = app
        self._keys = tuple(keys)
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if self._keys and not _public(scope["path"]) and (wrong := self._wrong(headers)):
            await _refuse(send, 401, wrong, "invalid_api_key", (b"www-authenticate", b"Bearer"))
            return
        length = headers.get("content-length", "")
        if not length.isdecimal() and "transfer-encoding" not in headers:
            await self._app(scope, receive, send)
            return
        body = None if length.isdecimal() and int(length) > self._max_body else await self._body(receive)
        if body is None:
            wrong = f"the body is too large: at most {self._max_body} bytes are taken (the lead's --max-body)"
            await _refuse(send, 413, wrong, "request_too_large")
            return
        whole: list[Message] = [body]

        async def replay() -> Message:
            return whole.pop() if whole else await receive()

        await self._app(scope, replay, send)

    def _wrong(self, headers: Headers) -> str:
        """Why these headers do not let in; empty if they do."""
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        if not given:
            return "this lead needs an API key: send it as 'Authorization: Bearer KEY'"
        return "" if matches(given, self._keys) else "the API key is wrong: this lead was started with another one"

    async def _body(self, receive: Receive) -> Message | None:
        """The body as one message, or the client's leaving; None if it is too large."""
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return message
            size += len(part := message.get("body", b""))
            if size > self._max_body:
                return None
            parts.append(part)
            more = message.get("more_body", False)
        return {"type": "http.request", "body": b"".join(parts), "more_body": False}


def _public(path: str) -> bool:
    return path in PUBLIC or path.startswith(PUBLIC_FILES)


async def _refuse(send: Send, status: int, message: str, code: str, *headers: tuple[bytes, bytes]) -> None:
    """OpenAI's error object."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    body = json.dumps({"error": error}).encode()
    plain = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*plain, *headers]})
    await send({"type": "http.response.body", "body": body})
