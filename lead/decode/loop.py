"""The decode loop, in a thread of its own: admit, read prompts, step.

Requests and guesses come in through queues that the event loop fills. What goes out is one call per answer and step.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

from duo.engines import Engine
from duo.errors import StoppedError
from duo.trace import Trace
from duo.wire.ledger import Ledger
from lead.decode.inbox import Inbox
from lead.decode.prefill import Prefill
from lead.decode.request import Request
from lead.decode.roster import Roster
from lead.decode.sources import Sources
from lead.decode.step import Stepper
from lead.plan.speculation import Speculation

T = TypeVar("T")


class Decoder:
    """Owns the engine. Requests get slots in the order in which they came."""

    def __init__(
        self,
        engine: Engine,
        ledger: Ledger,
        speculation: Speculation,
        trace: Trace,
        sources: Sources = Sources(),  # noqa: B008 - it is frozen
        cache_bytes: int = 0,
    ) -> None:
        """`ledger`: told of the sessions that backs may draft for. `sources`: what guesses in the lead itself.
        `cache_bytes`: most bytes of prompts that left their slots."""
        self._apart = not engine.mixes
        """Whether prompts are read in forward passes of their own."""
        self.speculation = speculation
        self._roster = Roster(engine, ledger, speculation, trace, sources, cache_bytes)
        self._prefill = Prefill(engine, self._roster, speculation, trace)
        self.inbox = Inbox()
        self._stepper = Stepper(engine, self._roster, self._prefill, self.inbox, speculation, trace, sources)
        self.grammars = self._roster.grammars
        self.slots = self._roster.slots
        """For what `call` does, and for figures."""
        self._wake = threading.Condition()
        self._ended = False
        self._tasks: deque[Callable[[], None]] = deque()
        self._thread = threading.Thread(target=self.run, name="decoder", daemon=True)

    def start(self, changed: Callable[[], None], stepped: Callable[[], None]) -> None:
        """Start the thread. It calls `changed` when the backs have other sessions, `stepped` when answers have new
        tokens."""
        self._roster.changed, self._stepper.stepped = changed, stepped
        self._thread.start()

    def stop(self) -> None:
        """End after the current forward pass. Requests that are not finished get a StoppedError."""
        with self._wake:
            self._roster.stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()

    def submit(self, request: Request) -> None:
        with self._wake:
            if not self._roster.stopping:
                self._roster.queue.append(request)
                self._wake.notify()
                return
        request.on_end(StoppedError("the lead is stopping"))

    def cancel(self, request: Request) -> None:
        """Nobody wants the answer any more. Its slot, or its place in the queue, is free after the current step."""
        request.cancelled.set()
        with self._wake:
            if request in self._roster.queue:
                self._roster.queue.remove(request)

    def call(self, task: Callable[[], T]) -> Future[T]:
        """Have the thread do something between two steps. Its result, or what it raises, is in the future."""
        future: Future[T] = Future()

        def do() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                if self._roster.stopping:
                    raise StoppedError("the lead is stopping")
                with self.speculation.uncounted(time.perf_counter):
                    future.set_result(task())
            except Exception as error:
                future.set_exception(error)

        with self._wake:
            if not self._ended:
                self._tasks.append(do)
                self._wake.notify()
                return future
        future.set_exception(StoppedError("the lead is stopping"))
        return future

    @property
    def waiting(self) -> int:
        """Requests without a slot."""
        return len(self._roster.queue)

    @property
    def room(self) -> int:
        """Free slots less requests that wait; below 0, this many wait without a slot in sight."""
        return self._roster.slots.free - len(self._roster.queue)

    @property
    def running(self) -> Sequence[Request]:
        """Requests that have a slot. Called from another thread, for people to see."""
        return self._roster.running

    def run(self) -> None:
        """What the thread does, until it is stopped."""
        roster = self._roster
        while True:
            with self._wake:
                self._wake.wait_for(lambda: roster.queue or self._tasks or roster.running or roster.stopping)
                if roster.stopping:
                    break
            self.turn()
        for request in roster.running:
            roster.end(request, StoppedError("the lead is stopping"))
        with self._wake:
            self._ended = True
            waiting = list(roster.queue)
            roster.queue.clear()
        self._do_tasks()
        for request in waiting:
            request.on_end(StoppedError("the lead is stopping"))

    def turn(self) -> None:
        """Once round the loop."""
        self._do_tasks()
        self._admit()
        chunks = self._prefill.next_chunks() if self._roster.reading else {}
        if self._apart and chunks:
            self._stepper.step([], chunks)
            chunks = {}
        last = [request for request, chunk in chunks.items() if len(chunk.tokens) == request.unread]
        requests = [*self._roster.answering, *last]
        if requests or chunks:
            self._stepper.step(requests, chunks)

    def _do_tasks(self) -> None:
        while self._tasks:
            self._tasks.popleft()()

    def _admit(self) -> None:
        """Give up what nobody wants any more, and free slots to requests that wait."""
        for request in self._roster.running:
            if request.cancelled.is_set():
                self._roster.end(request, None)
        while self._roster.queue and self._roster.slots.free:
            with self._wake:
                if not self._roster.queue:
                    return
                request = self._roster.queue.popleft()
            if not request.cancelled.is_set():
                self._roster.admit(request)
