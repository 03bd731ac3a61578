"""What stands before the HTTP side: API keys, the limit on bodies, CORS. It is plain ASGI, and streams pass untouched.

A body is read here up to its limit and handed on whole. A client without a key, or with too large a body, never
reaches the app.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lead.http.endpoints import is_public
from lead.http.errors import error_response, style_of
from lead.http.owner import mark
from lead.security.credentials import matches


def guarded(
    app: ASGIApp, keys: Sequence[str], max_body: int, origins: Sequence[str] = (), names: Sequence[str] | None = None
) -> ASGIApp:
    """The app for clients that have one of the keys. Without keys, it is for all clients.

    `max_body`: most bytes of a body. `origins`: pages that may ask (CORS); "*" means any page.

    `names` counts only without keys. Clients may call this host by these names, by localhost and by address, and only
    pages of this host and of `origins` may ask. None allows everything. Otherwise any page in a browser could talk
    to a lead on the same machine, even by a name of its own that it points there (DNS rebinding).
    """
    app = _Guard(app, keys, max_body, origins, names)
    if origins:
        # Outermost: a browser's preflight request has no key, and a page must be able to read a 401.
        app = CORSMiddleware(app, allow_origins=origins, allow_methods=["*"], allow_headers=["*"])
    return app


class _Guard:
    def __init__(
        self, app: ASGIApp, keys: Sequence[str], max_body: int, origins: Sequence[str], names: Sequence[str] | None
    ) -> None:
        self._app = app
        self._origins = frozenset(origins)
        self._names = None if names is None or keys else frozenset({"localhost", *names})
        self._keys = tuple(keys)
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if self._names is not None and (wrong := self._stranger(headers)):
            await _refusal(scope, 403, wrong, "forbidden_origin")(scope, receive, send)
            return
        public = is_public(scope["path"]) and scope["method"] in ("GET", "HEAD")
        key = _key_in(headers) if self._keys else ""
        if self._keys and not public and (wrong := self._wrong(key)):
            refusal = _refusal(scope, 401, wrong, "invalid_api_key", {"WWW-Authenticate": "Bearer"})
            await refusal(scope, receive, send)
            return
        mark(scope, key, headers)
        length = headers.get("content-length", "")
        if not length.isdecimal() and "transfer-encoding" not in headers:
            await self._app(scope, receive, send)
            return
        body = None if length.isdecimal() and int(length) > self._max_body else await self._body(receive)
        if body is None:
            wrong = f"the body is too large: at most {self._max_body} bytes are taken (the lead's --max-body)"
            await _refusal(scope, 413, wrong, "request_too_large")(scope, receive, send)
            return
        whole: list[Message] = [body]

        async def replay() -> Message:
            return whole.pop() if whole else await receive()

        await self._app(scope, replay, send)

    def _stranger(self, headers: Headers) -> str:
        """Why the page behind this request may not ask; empty if it may."""
        host, origin = headers.get("host", ""), headers.get("origin")
        try:
            known = not host or self._known(urlsplit(f"//{host}").hostname)
            own = origin is None or urlsplit(origin).netloc == host
        except ValueError:
            return "the headers Host and Origin make no sense"
        if not known:
            return (
                f"this lead needs no key and is not known as {host[:100]!r}: call it by its address, or start it with "
                "that name (--allowed-host) or with a key"
            )
        if own or {origin, "*"} & self._origins:
            return ""
        assert origin is not None
        return f"this lead needs no key and takes no requests of pages at {origin[:100]!r}: see its --cors-origin"

    def _known(self, name: str | None) -> bool:
        assert self._names is not None
        if name is None or name in self._names:
            return name is not None
        try:
            ip_address(name)
        except ValueError:
            return False
        return True

    def _wrong(self, key: str) -> str:
        """Why this key is not right; empty if it is."""
        if not key:
            return "this lead needs an API key: send it as 'Authorization: Bearer KEY'"
        return "" if matches(key, self._keys) else "the API key is wrong: this lead was started with another one"

    async def _body(self, receive: Receive) -> Message | None:
        """The whole body as one message, or the client's disconnect; None if the body is too large."""
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


def _key_in(headers: Headers) -> str:
    """The API key that a request holds; empty if it has none."""
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    return bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")


def _refusal(scope: Scope, status: int, message: str, code: str, headers: Mapping[str, str] | None = None) -> Response:
    return error_response(status, style_of(scope["path"]).body(status, message, None, code), headers)
