"""The drafting loop, in a thread of its own: hear, settle, expand, tell.

It holds the draft model and the drafts of the open sessions, and works on one session at a time, the oldest that has
something to do. Commits come in through a queue that is emptied between forward passes; guesses go out through a
callback.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from duo.draft_model import DraftModel
from duo.drafting import Draft
from duo.errors import ContextError, DuoError, ProtocolError
from duo.pacing import Pacing
from duo.prefix import Prefix
from duo.protocol import BackSide, Begun, CommittedTokens, Ended, Event, State, Welcomed
from duo.trace import Trace
from duo.tree import Expansion

log = logging.getLogger("back")


class _Stopwatch:
    """What has been done for a session, for the log."""

    def __init__(self) -> None:
        self.read = 0
        self.reading = 0.0
        self.drafted = 0
        self.drafting = 0.0


class Drafter:
    """Owns the model. `send` and `failed` are called from the drafter's thread.

    send(message): hand a message to the lead, or drop it if there is none. failed(error): the stream makes no sense and
    must be given up; what is known of its sessions has been forgotten.
    """

    def __init__(
        self,
        model: DraftModel,
        send: Callable[[bytes], None],
        failed: Callable[[DuoError], None],
        trace: Trace,
    ) -> None:
        self._model = model
        self._send = send
        self._failed = failed
        self._trace = trace
        self._drafts: dict[int, Draft] = {}
        self._watches: dict[int, _Stopwatch] = {}
        self.state: State = "waiting"
        """For people to see; read from another thread."""
        self._found: list[Expansion] = []
        self._pacing = Pacing()
        self._events: deque[Event] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="drafter", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()

    def hear(self, event: Event) -> None:
        """Called from another thread."""
        with self._wake:
            self._events.append(event)
            self._wake.notify()
        if isinstance(event, CommittedTokens):
            self._model.committed(event.session, event.start, event.tokens)

    def known(self) -> list[tuple[int, Prefix]]:
        """Sessions held, with what is known of each: for the Hello of the next stream. Called from another thread."""
        return [(session, Prefix(draft.prefix.tokens)) for session, draft in list(self._drafts.items())]

    def _run(self) -> None:
        while True:
            with self._wake:
                if self._next() is None:
                    self.state = "waiting"
                    self._wake.wait_for(lambda: self._events or self._stopping)
                if self._stopping:
                    return
                events = list(self._events)
                self._events.clear()
            try:
                for event in events:
                    self._take(event)
                if (draft := self._next()) is not None:
                    self._work(draft)
            except ProtocolError as error:
                self._forget()
                self._failed(error)
            except Exception as error:
                log.exception("drafting failed")
                self._forget()
                self._failed(ProtocolError(f"drafting failed: {error}"))

    def _next(self) -> Draft | None:
        """The oldest session with something to do."""
        return next((d for d in self._drafts.values() if d.prefix.tokens and (d.behind or not d.ahead)), None)

    def _take(self, event: Event) -> None:
        if isinstance(event, Begun):
            if event.session not in self._drafts:
                self._drafts[event.session] = self._model.open(
                    event.session, event.sampling, event.prompt_length, event.turn
                )
                self._watches[event.session] = _Stopwatch()
        elif isinstance(event, CommittedTokens):
            if (draft := self._drafts.get(event.session)) is not None:
                known, expanded, guessed = len(draft.prefix), draft.answered, draft.guessed
                draft.commit(event.start, event.tokens, event.more)
                self._pacing.heard(time.perf_counter(), draft.anew)
                tokens, agreed = len(draft.prefix) - known, draft.guessed - guessed
                # Of the rows drafted those that the answer passed through, `expanded`, were of use. Where a token was
                # not among the guesses the tree is lost.
                self._trace.instant(
                    "drafter", "commit", time.perf_counter(), tokens=tokens, length=len(draft.prefix),
                    expanded=draft.answered - expanded, agreed=agreed, tree_lost=agreed < tokens,
                )  # fmt: skip
        elif isinstance(event, Ended):
            self._end(event.session)
        elif isinstance(event, Welcomed):
            # A new stream. Guesses of the last one may be lost, and what hangs from those would be of no use.
            self._model.leave()
            for draft in self._drafts.values():
                draft.cached(0)

    def _end(self, session: int) -> None:
        draft, watch = self._drafts.pop(session, None), self._watches.pop(session, None)
        if draft is not None and watch is not None and watch.drafted:
            log.info(
                "drafted %d tokens (%.0f tokens/s), %.0f%% of an answer of %d tokens guessed",
                watch.drafted, watch.drafted / max(watch.drafting, 1e-9),
                100 * draft.guessed / max(1, draft.answered), len(draft.prefix) - draft.prompt_length,
            )  # fmt: skip

    def _forget(self) -> None:
        self._drafts.clear()
        self._watches.clear()
        self._model.reset()

    def _work(self, draft: Draft) -> None:
        """One forward pass for the session: read what is missing, or draft."""
        try:
            if not self._model.holds(draft):
                self._model.take(draft)
                self._found = []
            watch, started = self._watches[draft.session], time.perf_counter()
            # A token or two after a rejection is everyday work and not worth a word.
            if draft.behind > self._model.n_ahead:
                self.state = "catching up"
            if read := self._model.read(draft):
                watch.read += read
                watch.reading += time.perf_counter() - started
            if draft.behind:
                return
            if watch.read > self._model.n_ahead:
                log.info("caught up: %d tokens in %.2f s", watch.read, watch.reading)
            watch.read, watch.reading, started = 0, 0.0, time.perf_counter()
            if draft.ahead:
                return
            self.state = "drafting"
            found, rows = self._model.expand(draft)
            if not rows:
                return
            done = time.perf_counter()
            watch.drafted += rows
            watch.drafting += done - started
            self._found += found
            if draft.ahead or self._pacing.due(done):
                message = BackSide.guesses(draft.session, self._found)
                self._send(message)
                self._trace.instant("drafter", "send", done, expansions=len(self._found), bytes=len(message))
                self._pacing.said(done)
                self._found = []
        except ContextError as error:
            log.warning("not drafting for this answer any more: %s", error)
            self._model.reset()
            del self._drafts[draft.session], self._watches[draft.session]
