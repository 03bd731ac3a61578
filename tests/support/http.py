"""The lead's HTTP side under a real uvicorn, with scripted answers.

A script is a list of steps. A tuple of strings or pieces is a batch. An `AnswerGate` holds the answer until the test
opens it, or for ever. An exception is raised. The vocabulary is that of the shipped models, with a chat template that
writes everything it gets into the prompt.
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
from functools import cache
from typing import Any

import transformers
import uvicorn
from starlette.types import ASGIApp

from bench.harness.models import shipped
from duo.engines import Vocabulary
from duo.engines.transformers.vocabulary import HFVocabulary
from duo.program.tls_files import Files
from duo.sampling.grammar import Grammars
from duo.sampling.logprobs import Logprobs
from lead.answers.answer import Report
from lead.api import (
    CLIENT_GONE,
    Answer,
    BackView,
    Benefit,
    CacheView,
    ModelInfo,
    Observer,
    Piece,
    Question,
    SlotFile,
    SlotView,
    Speedup,
    Summary,
)
from lead.http.app import create_app
from lead.http.edge.auth import guarded
from lead.http.info.metrics import Metrics
from lead.http.site import BODY_LIMIT, Options

PATIENCE = 10.0
"""Seconds that a test waits before it fails."""

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
    speedup=Speedup(2.1, 0.1),
)


class AnswerGate:
    def __init__(self) -> None:
        self._opened: concurrent.futures.Future[None] = concurrent.futures.Future()

    def open(self) -> None:
        self._opened.set_result(None)

    async def passed(self) -> None:
        await asyncio.wrap_future(self._opened)


Step = tuple[str | Piece, ...] | AnswerGate | Exception

TEMPLATE = "{{ {'messages': messages, 'tools': tools} | tojson }}"
"""A chat template that loses nothing."""


def vocabulary(template: str = TEMPLATE) -> Vocabulary:
    """The shipped models', with another chat template."""
    return _vocabulary(template)


@cache
def _vocabulary(template: str) -> Vocabulary:
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(shipped("draft", "transformers"))
    tokenizer.chat_template = template
    return HFVocabulary(tokenizer, len(tokenizer), frozenset([tokenizer.eos_token_id]))


def conversation(prompt: Sequence[int]) -> dict[str, Any]:
    """`messages` and `tools` that a prompt was made from."""
    found: dict[str, Any] = json.loads(vocabulary().decode(prompt))
    return found


class ScriptedAnswer:
    def __init__(self, question: Question, script: Sequence[Step], summary: Summary, report: Report) -> None:
        self.question = question
        self.prompt_logprobs = [Logprobs(-0.25, [(token, -0.25)]) for token in question.prompt[1:]]
        self.summary = summary
        self.cancelled = threading.Event()
        self.ended = threading.Event()
        self._script = script
        self._report = report

    @property
    def messages(self) -> Sequence[Mapping[str, Any]]:
        """The messages of the conversation that was asked about."""
        found: Sequence[Mapping[str, Any]] = conversation(self.question.prompt)["messages"]
        return found

    async def __aiter__(self) -> AsyncIterator[Sequence[Piece]]:
        try:
            with self._report:
                for step in self._script:
                    if isinstance(step, Exception):
                        raise step
                    if isinstance(step, AnswerGate):
                        await step.passed()
                        continue
                    pieces = [piece if isinstance(piece, Piece) else Piece(piece) for piece in step]
                    self._report.pieces(pieces)
                    yield pieces
                self._report.finished(self.summary)
        finally:
            self.ended.set()

    def cancel(self) -> None:
        # The iteration may go on for a while: who cancels must not wait for its end.
        self.cancelled.set()
        self._report.failed(CLIENT_GONE)


@cache
def _grammars() -> Grammars:
    return Grammars(vocabulary())


class ScriptedAnswerer:
    def __init__(self) -> None:
        self.ready = True
        self.model = "fake-13m"
        self.created = 1_700_000_000
        self.runtime = "transformers"
        self.template = TEMPLATE
        self.exactness = "exact off"
        self.speculates = True
        self.context = 4096
        self.sampling: Mapping[str, float] = {}
        self.waiting = 0
        self.most = 128
        self.script: Sequence[Step] = [("Hello", ","), (" wor",), ("ld", "!")]
        self.summary = SUMMARY
        self.refusal: Exception | None = None
        self.views: Sequence[BackView] = []
        self.benefit: Benefit | None = None
        self.slot_views: Sequence[SlotView] = [SlotView(0, "idle")]
        self.scripts: list[Sequence[Step]] = []
        """One for each of the next answers. Later answers use `script`."""
        self.observers: Sequence[Observer] = ()
        self.actions: list[str] = []
        """What was done with slots."""
        self.asked: queue.Queue[ScriptedAnswer] = queue.Queue()

    @property
    def info(self) -> ModelInfo:
        return ModelInfo(
            self.model, self.created, self.runtime, self.context, vocabulary(self.template), self.speculates,
            self.exactness, self.most, self.sampling,
        )  # fmt: skip

    def slots(self) -> Sequence[SlotView]:
        return self.slot_views

    def ask(self, question: Question) -> Answer:
        if self.refusal is not None:
            raise self.refusal
        if question.sampling.grammar:
            _grammars().check(question.sampling.grammar)
        script = self.scripts.pop(0) if self.scripts else self.script
        answer = ScriptedAnswer(question, script, self.summary, Report(0, self.observers))
        self.asked.put(answer)
        return answer

    def backs(self) -> Sequence[BackView]:
        return self.views

    @property
    def cache(self) -> CacheView:
        return CacheView(2, 1000, 3, 500)

    async def save_slot(self, slot: int, filename: str) -> SlotFile:
        self._act(f"save {slot} {filename}")
        return SlotFile(40, 5000, 0.25)

    async def restore_slot(self, slot: int, filename: str) -> SlotFile:
        self._act(f"restore {slot} {filename}")
        return SlotFile(40, 5000, 0.5)

    async def erase_slot(self, slot: int) -> int:
        self._act(f"erase {slot}")
        return 40

    def _act(self, action: str) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.actions.append(action)

    def next_asked(self) -> ScriptedAnswer:
        """The answer to the oldest question that the test has not taken yet."""
        return self.asked.get(timeout=PATIENCE)


@contextmanager
def serving(
    answerer: ScriptedAnswerer, options: Options | None = None, metrics: Metrics | None = None
) -> Iterator[str]:
    """The app behind the guard on a free port. Yields its address, where the socket listens already."""
    vocabulary()  # the first time takes seconds
    with served(guarded(create_app(answerer, options, metrics), [], BODY_LIMIT)) as url:
        yield url


@contextmanager
def served(app: ASGIApp, tls: Files | None = None) -> Iterator[str]:
    """Any app on a free port. Yields its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    # Without a log configuration of its own, uvicorn's records reach pytest's caplog.
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
