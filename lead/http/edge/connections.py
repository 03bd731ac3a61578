"""HTTP connections that nobody can hold for ever: uvicorn's protocol with deadlines and limits.

uvicorn waits without limit for the rest of a request. Here the head has one deadline and the body another, however
slowly the bytes come. TCP's timers end the connection of a client that no longer reads or is gone. Connections are
counted, in all and by address. One too many gets a 503 and is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from lead.http.errors import dump, style_of

TLS_HANDSHAKE_SECONDS = 10
UNREAD_SECONDS = 60
"""A connection is closed when its client takes no bytes for this long."""
_KEEP_ALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": UNREAD_SECONDS * 1000}


@dataclass(frozen=True)
class Limits:
    """Most connections in all and of one address; seconds for the head of a request, and for its body."""

    connections: int = 512
    per_address: int = 256
    head_seconds: float = 10.0
    body_seconds: float = 60.0
    open: Counter[str] = field(default_factory=Counter, compare=False)
    """Open connections by address."""

    def protocol(self) -> Any:
        """For `uvicorn.Config(http=...)`."""
        return functools.partial(Connection, self)


class Server(uvicorn.Server):
    """uvicorn without signal handlers: the program has its own."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        # A warning for every malformed request would let strangers fill the log.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self.config.is_ssl:
            # A connection is counted after its TLS handshake. Without a deadline of ours, asyncio gives it a minute.
            loop = asyncio.get_running_loop()
            serve = functools.partial(loop.create_server, ssl_handshake_timeout=TLS_HANDSHAKE_SECONDS)
            setattr(loop, "create_server", serve)  # noqa: B010 - mypy takes no method for a variable
        await super().startup(sockets)


class Connection(H11Protocol):
    """One connection, with deadlines."""

    def __init__(self, limits: Limits, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._limits = limits
        self._address = ""
        self._deadline: asyncio.TimerHandle | None = None
        self._due: object = None
        """The state of the client's half of the connection that the deadline is for."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        _notice_absence(transport.get_extra_info("socket"))
        self._address = self.client[0] if self.client else ""
        self._limits.open[self._address] += 1
        if len(self.connections) > self._limits.connections:
            self._turn_away(503, f"the lead has {self._limits.connections} connections already: try again in a moment")
        elif self._limits.open[self._address] > self._limits.per_address:
            self._turn_away(503, f"{self._address} has {self._limits.per_address} connections already: close some")
        else:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._limits.open[self._address] -= 1
        if not self._limits.open[self._address]:
            del self._limits.open[self._address]
        self._set_deadline(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """Answers garbage in the middle of a request. uvicorn would answer twice if an answer has begun already."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()

    def _watch(self) -> None:
        """Sets the deadline for what the client owes now. More bytes do not set it again."""
        owes = self.conn.their_state
        if owes is not self._due:
            seconds = {h11.IDLE: self._limits.head_seconds, h11.SEND_BODY: self._limits.body_seconds}.get(owes)
            self._set_deadline(seconds)
            self._due = owes

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.IDLE:
            # Until the first byte of the next request, uvicorn's keep-alive timer counts.
            self._set_deadline(None)
            self._due = None
        else:
            self._watch()  # a part of the next request may be here already

    def _set_deadline(self, seconds: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self._too_slow)

    def _too_slow(self) -> None:
        if self.cycle is not None and self.cycle.response_started and self.conn.their_state is not h11.IDLE:
            self.transport.close()  # the client has a refusal already, and still sends
        else:
            self._turn_away(408, "the request took too long to arrive")

    def _turn_away(self, status: int, why: str) -> None:
        reason = {408: "Request Timeout", 503: "Service Unavailable"}[status]
        path = self.cycle.scope["path"] if self.cycle is not None else ""
        body = dump(style_of(path).body(status, why, None, None)).encode()
        head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        retry = "Retry-After: 1\r\n" if status == 503 else ""
        self.transport.write(f"{head}{retry}Connection: close\r\n\r\n".encode() + body)
        self.transport.close()


def _notice_absence(connection: socket.socket | None) -> None:
    """Lets TCP find out that the client is silently gone, or no longer reads."""
    if connection is None or connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        for name, value in _KEEP_ALIVE.items():
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
