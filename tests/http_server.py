"""The lead's HTTP side under a real uvicorn, with answers that a test writes down beforehand.

A script is a list of steps: a tuple of strings is a batch of pieces, a `Gate` holds the answer until the test opens it
(or for ever), an exception is raised. Whoever reads the answer can be seen: `cancelled` and `ended` are events.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import queue
import socket
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import uvicorn

from lead.answers import Answer, BackView, Piece, Question, SlotView, Summary
from lead.http import create_app

PATIENCE = 10.0
"""Seconds after which a test that waits for something has failed."""

SUMMARY = Summary(
    finish_reason="stop",
    prompt_tokens=11,
    cached_tokens=4,
    completion_tokens=6,
    prompt_seconds=0.5,
    decode_seconds=2.0,
    steps=3,
    drafted=5,
    accepted=3,
)


class Gate:
    def __init__(self) -> None:
        self._opened: concurrent.futures.Future[None] = concurrent.futures.Future()

    def open(self) -> None:
        self._opened.set_result(None)

    async def passed(self) -> None:
        await asyncio.wrap_future(self._opened)


Step = tuple[str | Piece, ...] | Gate | Exception


class ScriptedVocabulary:
    """Its tokens are bytes, and a conversation as a prompt is its JSON: what was asked can be read off the prompt."""

    size = 256
    fingerprint = "bytes"
    eos: frozenset[int] = frozenset()

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    encode_rendered = encode

    def decode(self, tokens: Sequence[int]) -> str:
        return bytes(tokens).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        return bytes([token])

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        return json.dumps([*messages, *tools])

    def chat(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        return self.encode(self.render(messages, tools))


class ScriptedAnswer:
    def __init__(self, question: Question, script: Sequence[Step], summary: Summary) -> None:
        self.question = question
        self.prompt_tokens = summary.prompt_tokens
        self.summary = summary
        self.cancelled = threading.Event()
        self.ended = threading.Event()
        self._script = script

    async def __aiter__(self) -> AsyncIterator[Sequence[Piece]]:
        try:
            for step in self._script:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, Gate):
                    await step.passed()
                else:
                    yield [piece if isinstance(piece, Piece) else Piece(piece) for piece in step]
        finally:
            self.ended.set()

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation that was asked about."""
        messages: list[dict[str, Any]] = json.loads(bytes(self.question.prompt))
        return messages

    def cancel(self) -> None:
        # Only noted: the iteration may go on for a while, and whoever cancels must not wait for its end.
        self.cancelled.set()


class ScriptedAnswerer:
    def __init__(self) -> None:
        self.ready = True
        self.model = "fake-13m"
        self.runtime = "scripted"
        self.context = 4096
        self.waiting = 0
        self.vocabulary = ScriptedVocabulary()
        self.created = 1_700_000_000
        self.script: Sequence[Step] = [("Hello", ","), (" wor",), ("ld", "!")]
        self.summary = SUMMARY
        self.refusal: Exception | None = None
        self.views: Sequence[BackView] = []
        self.slot_views: Sequence[SlotView] = []
        self.asked: queue.Queue[ScriptedAnswer] = queue.Queue()

    def ask(self, question: Question) -> Answer:
        if self.refusal is not None:
            raise self.refusal
        answer = ScriptedAnswer(question, self.script, self.summary)
        self.asked.put(answer)
        return answer

    def slots(self) -> Sequence[SlotView]:
        return self.slot_views

    def backs(self) -> Sequence[BackView]:
        return self.views

    def next_asked(self) -> ScriptedAnswer:
        """The answer to the oldest question not looked at yet."""
        return self.asked.get(timeout=PATIENCE)


@contextmanager
def serving(answerer: ScriptedAnswerer) -> Iterator[str]:
    """The app on a free port; its address. A client may connect at once: the socket listens already."""
    listener = socket.create_server(("127.0.0.1", 0))
    # Without a log configuration of its own, uvicorn's records reach pytest's caplog.
    config = uvicorn.Config(create_app(answerer), log_config=None, lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
