"""An app that echoes, behind the guard and under the lead's own server."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import uvicorn
from starlette.types import Receive, Scope, Send

from lead.http.edge.auth import guarded
from lead.http.edge.connections import Limits, Server

MAX_BODY = 1000
SHORT = 0.3
"""Seconds of a deadline that is let pass."""


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the body."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def serving(
    keys: Sequence[str] = (), origins: Sequence[str] = (), limits: Limits | None = None, cert: str = "", key: str = ""
) -> Iterator[int]:
    """The echo behind the guard; its port."""
    config = uvicorn.Config(
        guarded(echo, keys, MAX_BODY, origins),
        http=(limits or Limits()).protocol(),
        log_config=None,
        lifespan="off",
        ssl_certfile=cert or None,
        ssl_keyfile=key or None,
        timeout_graceful_shutdown=1,
    )
    server = Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield int(listening.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join()


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=30)


def read_all(connection: socket.socket) -> bytes:
    """Until the other side closes."""
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)
