"""The HTTP side as a lead on a network has it: behind an API key, or with TLS."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from duo.pem import Files
from lead.guard import guarded
from lead.site import create_site
from tests.http_server import ScriptedAnswerer


@contextmanager
def locked(answerer: ScriptedAnswerer, key: str = "", tls: Files | None = None) -> Iterator[str]:
    """Its address. `key` empty: none is needed."""
    listener = socket.create_server(("127.0.0.1", 0))
    app = guarded(create_site(answerer), [key] if key else [], 1 << 20)
    config = uvicorn.Config(
        app,
        log_config=None,
        lifespan="off",
        timeout_graceful_shutdown=1,
        ssl_certfile=tls.cert if tls else None,
        ssl_keyfile=tls.key if tls else None,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
