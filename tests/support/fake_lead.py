"""A lead that says whatever a test wants, whether a real lead would or not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

TIMINGS = {
    "prompt_n": 7, "prompt_ms": 500.0, "predicted_n": 6, "predicted_ms": 2000.0, "draft_n": 5, "draft_n_accepted": 3,
}  # fmt: skip


class FakeLead:
    """deltas: what each next answer streams. thinking: its tokens of thinking. timings, backs, speedup: as the real
    lead has them. key: what it takes, if it wants one. asked: the bodies of the questions so far."""

    def __init__(self) -> None:
        self.deltas: Sequence[Mapping[str, object]] = [{"content": "Hello"}]
        self.thinking = 0
        self.finish_reason = "stop"
        self.timings: dict[str, object] = dict(TIMINGS)
        self.backs: Sequence[Mapping[str, object]] = []
        self.speedup: Mapping[str, object] | None = None
        self.key: str | None = None
        self.asked: list[Any] = []

    def get(self, path: str) -> object:
        if path == "/backs":
            return {"data": self.backs, "speedup": self.speedup}
        return {"data": [{"id": "fake"}]}

    def events(self) -> Iterator[object]:
        for delta in self.deltas:
            yield {"choices": [{"delta": delta, "finish_reason": None}]}
        yield {"choices": [{"delta": {}, "finish_reason": self.finish_reason}], "timings": self.timings}
        usage = {"completion_tokens_details": {"reasoning_tokens": self.thinking}}
        yield {"choices": [], "usage": usage, "timings": self.timings}


@contextmanager
def serving(lead: FakeLead) -> Iterator[str]:
    """Yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/health" or self.allowed():
                self.respond("application/json", json.dumps(lead.get(self.path)).encode())

        def do_POST(self) -> None:
            lead.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            if self.allowed():
                lines = [f"data: {json.dumps(event)}\n\n" for event in lead.events()]
                self.respond("text/event-stream", "".join([*lines, "data: [DONE]\n\n"]).encode())

        def allowed(self) -> bool:
            if lead.key is None or self.headers["Authorization"] == f"Bearer {lead.key}":
                return True
            self.respond("application/json", b'{"error": {"message": "no"}}', 401)
            return False

        def respond(self, kind: str, body: bytes, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
