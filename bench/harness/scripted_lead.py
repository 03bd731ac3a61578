"""The page of a lead, and what it asks, with scripted answers: for its tests, and for its picture."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from lead.http.page import routes

Chunk = Mapping[str, Any]
"""A delta of a chat's stream. The key `accepted` stands beside it in the choice."""

TIMINGS: Mapping[str, Any] = {
    "predicted_n": 6, "predicted_per_second": 3.0, "draft_n": 5, "draft_n_accepted": 3, "speedup": None,
}  # fmt: skip


class ScriptedLead:
    """Change its fields to change what the page sees.

    states: what GET says, by path. A path that is missing is answered with 404.
    usage: what the end of an answer counts beside its timings; empty: nothing.
    script: the chunks of each answer, from the question; scripts: of the next ones. pause: seconds between chunks.
    asked: the bodies of the questions.
    """

    def __init__(self) -> None:
        self.states: dict[str, Any] = {
            "/health": {"status": "ok"},
            "/v1/models": {"object": "list", "data": [{"id": "scripted-13m"}]},
            "/backs": {"data": [], "speedup": None},
            "/slots": [],
            "/props": {},
            "/join": {"back": None, "chat": None},
        }
        self.script: Sequence[Chunk] = [{"content": "Hello, world!"}]
        self.scripts: list[Sequence[Chunk]] = []
        self.timings: Mapping[str, Any] = TIMINGS
        self.usage: Mapping[str, Any] = {}
        self.pause = 0.0
        self.asked: list[dict[str, Any]] = []

    def app(self) -> FastAPI:
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        app.include_router(routes.router)

        @app.post("/v1/chat/completions")
        async def ask(request: Request) -> Response:
            self.asked.append(await request.json())
            script = self.scripts.pop(0) if self.scripts else self.script
            return StreamingResponse(self._events(script), media_type="text/event-stream")

        @app.get("/{path:path}")
        async def state(path: str) -> Response:
            if (found := self.states.get(f"/{path}")) is None:
                return JSONResponse({"error": {"message": f"there is no /{path}"}}, 404)
            return JSONResponse(found)

        return app

    async def _events(self, script: Sequence[Chunk]) -> AsyncIterator[str]:
        calls = False
        for chunk in script:
            await asyncio.sleep(self.pause)
            delta = {name: value for name, value in chunk.items() if name != "accepted"}
            beside = {"accepted": chunk["accepted"]} if "accepted" in chunk else {}
            calls |= "tool_calls" in delta
            yield _event({"choices": [{"index": 0, "delta": delta, "finish_reason": None, **beside}]})
        last = {"index": 0, "delta": {}, "finish_reason": "tool_calls" if calls else "stop"}
        yield _event({"choices": [last], "timings": self.timings, **({"usage": self.usage} if self.usage else {})})
        yield "data: [DONE]\n\n"


def _event(data: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(data)}\n\n"


@contextmanager
def serving(lead: ScriptedLead) -> Iterator[str]:
    """On a free port. Yields its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(lead.app(), log_config=None, lifespan="off", ws="none", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
