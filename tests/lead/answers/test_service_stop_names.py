"""Stop strings are searched for special tokens once a request, and never in the thread of the event loop."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from bench.harness.models import shipped
from duo.engines import EngineOptions, load
from duo.engines.transformers.vocabulary import HFVocabulary
from duo.trace import Trace
from lead.http.app import create_app
from lead.plan.limits import Limits
from lead.plan.verify_all import VerifyAll
from lead.program import Lead, assemble
from lead.target import Target

CHAT = {"messages": [{"role": "user", "content": "What does len do?"}]}
LIMITS = Limits(draft_max=4, rows=8)
STOPS = ["<|end|>", "\n\nQ:", "###"]


async def post(app: Any, path: str, body: Mapping[str, Any]) -> tuple[int, Any]:
    """Status and JSON of what an ASGI app answers, in this loop."""
    parts = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]
    gone: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return parts.pop() if parts else await gone

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
             "headers": [(b"content-type", b"application/json")], "http_version": "1.1", "scheme": "http",
             "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "root_path": ""}  # fmt: skip
    await app(scope, receive, send)
    return sent[0]["status"], json.loads(b"".join(part.get("body", b"") for part in sent[1:]))


@pytest.mark.parametrize(
    ("path", "body", "answers"),
    [
        ("/v1/chat/completions", {**CHAT, "n": 3}, 3),
        ("/v1/completions", {"prompt": ["one", "two"], "n": 2}, 4),
        ("/messages", CHAT, 1),
    ],
)
def test_stops_are_tokenised_once_and_beside_the_loop(
    path: str, body: dict[str, Any], answers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenised: list[tuple[str, int]] = []

    def recorded(encode: Callable[[HFVocabulary, str], list[int]]) -> Callable[[HFVocabulary, str], list[int]]:
        def record(self: HFVocabulary, text: str) -> list[int]:
            tokenised.append((text, threading.get_ident()))
            return encode(self, text)

        return record

    async def run() -> tuple[int, Any]:
        engine = load(shipped("draft", "transformers"), "transformers", EngineOptions(threads=1, context=256))
        lead = Lead()
        lead.service = assemble(Target(engine, LIMITS, VerifyAll(LIMITS), "exact off"), [], Trace())
        try:
            monkeypatch.setattr(HFVocabulary, "encode", recorded(HFVocabulary.encode))
            monkeypatch.setattr(HFVocabulary, "encode_rendered", recorded(HFVocabulary.encode_rendered))
            return await post(create_app(lead), path, {**body, "stop": STOPS, "max_tokens": 2})
        finally:
            await lead.service.stop()
            engine.close()

    status, answer = asyncio.run(run())
    assert status == 200, answer
    assert len(answer.get("choices", [answer])) == answers
    assert [sum(text == stop for text, _ in tokenised) for stop in STOPS] == [1, 1, 1]
    assert threading.get_ident() not in {thread for _, thread in tokenised}, "the loop ran in this thread"
