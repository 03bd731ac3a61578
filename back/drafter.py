"""The drafting loop, in a thread of its own: hear, read, expand, tell.

It holds the draft model and the drafts of the open sessions. One forward pass drafts for all of them, for each as much
as there is to be gained; one that has much to read reads it in pieces, in turns with that. Commits come in through a
queue that is emptied between forward passes; guesses go out through a callback.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from back.pacing import LEAST, Pacing
from duo.draft.draft import Draft
from duo.draft.model import DraftModel
from duo.errors import ContextError, DuoError, ProtocolError
from duo.guesses import Expansion
from duo.prefix import Prefix
from duo.trace import Trace
from duo.wire.back_side import BackSide
from duo.wire.messages import MAX_KNOWN, Begun, CommittedTokens, Ended, Event, State, Welcomed

log = logging.getLogger("back")


@dataclass(slots=True, eq=False)
class _Open:
    """A session: what is to be told of it, and when; for the log, what has been done for it."""

    draft: Draft
    found: list[Expansion] = field(default_factory=list)
    pacing: Pacing = field(default_factory=Pacing)
    read: int = 0
    reading: float = 0.0
    drafted: int = 0
    drafting: float = 0.0


class Drafter:
    """Owns the model. `send` and `failed` are called from the drafter's thread.

    send(messages): hand messages to the lead, or drop them if there is none. failed(error): the stream makes no sense
    and must be given up; what is known of its sessions has been forgotten.
    """

    def __init__(
        self,
        model: DraftModel,
        send: Callable[[Sequence[bytes]], None],
        failed: Callable[[DuoError], None],
        trace: Trace,
    ) -> None:
        self._model = model
        self._send = send
        self._failed = failed
        self._trace = trace
        self._sessions: dict[int, _Open] = {}
        self.state: State = "waiting"
        """For people to see; read from another thread."""
        self._has_read = False
        """Whether the last forward pass was a reading one."""
        self._told = float("-inf")
        """When something was sent last."""
        self._events: deque[Event] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._named: frozenset[int] = frozenset()
        """Sessions that the lead was told of when this stream began."""
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
        known = [(session, Prefix(it.draft.prefix.tokens)) for session, it in list(self._sessions.items())][-MAX_KNOWN:]
        self._named = frozenset(session for session, _ in known)
        return known

    def _run(self) -> None:
        busy = False
        while True:
            with self._wake:
                if not busy:
                    self.state = "waiting"
                    self._wake.wait_for(lambda: self._events or self._stopping)
                if self._stopping:
                    return
                events = list(self._events)
                self._events.clear()
            try:
                for event in events:
                    self._take(event)
                busy = self._work()
            except ProtocolError as error:
                busy = self._forget(error)
            except Exception as error:
                log.exception("drafting failed")
                busy = self._forget(ProtocolError(f"drafting failed: {error}"))

    def _take(self, event: Event) -> None:
        if isinstance(event, Begun):
            if event.session not in self._sessions:
                self._sessions[event.session] = _Open(
                    self._model.open(event.session, event.sampling, event.prompt_length, event.turn, event.ends)
                )
        elif isinstance(event, CommittedTokens):
            if (it := self._sessions.get(event.session)) is not None:
                self._commit(it, event)
        elif isinstance(event, Ended):
            self._end(event.session)
        elif isinstance(event, Welcomed):
            # Of what was not named to it the lead will not say that it has ended: it may have come after the Hello,
            # from what the last stream had left unheard. Those that are open are begun anew.
            for session in [session for session in self._sessions if session not in self._named]:
                self._model.leave(self._sessions.pop(session).draft)
            self._model.drafts_for(event.vocabulary_size, event.differing)
            # A new stream. Guesses of the last one may be lost, and what hangs from those would be of no use.
            for it in self._sessions.values():
                self._model.leave(it.draft)
                it.draft.cached(0)
                it.found = []

    def _commit(self, it: _Open, event: CommittedTokens) -> None:
        draft, now = it.draft, time.perf_counter()
        known, expanded, guessed = len(draft.prefix), draft.answered, draft.guessed
        draft.commit(event.start, event.tokens, event.more)
        it.pacing.heard(now, draft.anew)
        if draft.anew:
            it.found = []  # it hangs from what the answer did not come to
        tokens, agreed = len(draft.prefix) - known, draft.guessed - guessed
        # Of the rows drafted those that the answer passed through, `expanded`, were of use. Where a token was not among
        # the guesses the tree is lost.
        self._trace.instant(
            "drafter", "commit", now, tokens=tokens, length=len(draft.prefix),
            expanded=draft.answered - expanded, agreed=agreed, tree_lost=agreed < tokens,
        )  # fmt: skip
        try:
            self._model.check(draft)
        except ContextError as error:
            self._drop(draft, error)

    def _end(self, session: int) -> None:
        it = self._sessions.pop(session, None)
        if it is None:
            return
        draft = it.draft
        self._model.leave(draft)
        if it.drafted:
            log.info(
                "drafted %d tokens (%.0f tokens/s), %.0f%% of an answer of %d tokens guessed",
                it.drafted, it.drafted / max(it.drafting, 1e-9),
                100 * draft.guessed / max(1, draft.answered), len(draft.prefix) - draft.prompt_length,
            )  # fmt: skip

    def _drop(self, draft: Draft, error: DuoError) -> None:
        """A session that cannot go on. The others do."""
        log.warning("not drafting for this answer any more: %s", error)
        self._model.leave(draft)
        del self._sessions[draft.session]

    def _forget(self, error: DuoError) -> bool:
        self._sessions.clear()
        self._model.reset()
        self._failed(error)
        return False

    def _work(self) -> bool:
        """One forward pass: draft, or read what somebody lacks for that, in turns if there is both to be done. Returns
        whether there was anything to do."""
        seated = self._model.slot([it.draft for it in self._sessions.values()])
        behind = [draft for draft in seated if draft.behind]
        ready = [draft for draft in seated if not draft.behind and not draft.ahead]
        self._has_read = bool(behind) and not (ready and self._has_read)
        if self._has_read:
            # Who needs least is soonest of use, and what it has read is there for others that begin alike.
            self._read(min(behind, key=lambda draft: draft.unread), drafting=bool(ready))
        elif ready:
            self._expand(ready)
        self._tell(idle=not behind and not ready)
        return bool(behind or ready)

    def _read(self, draft: Draft, drafting: bool) -> None:
        it, started = self._sessions[draft.session], time.perf_counter()
        # A token or two after a rejection is everyday work and not worth a word.
        if draft.behind > self._model.n_ahead and not drafting:
            self.state = "catching up"
        try:
            it.read += self._model.read(draft, others=len(self._sessions) > 1)
        except ContextError as error:
            self._drop(draft, error)
            return
        it.reading += time.perf_counter() - started
        if not draft.behind:
            if it.read > self._model.n_ahead:
                log.info("caught up: %d tokens in %.2f s", it.read, it.reading)
            it.read, it.reading = 0, 0.0

    def _expand(self, drafts: Sequence[Draft]) -> None:
        self.state = "drafting"
        started = time.perf_counter()
        found = self._model.expand(drafts)
        seconds = time.perf_counter() - started
        rows = sum(each.rows for each in found)
        for each in found:
            if each.error is not None:
                self._drop(each.draft, each.error)
                continue
            it = self._sessions[each.draft.session]
            it.found += each.expansions
            it.drafted += each.rows
            it.drafting += seconds * each.rows / max(1, rows)

    def _tell(self, idle: bool) -> None:
        """Send all that was found if something of it is due. `idle`: there is nothing to wait for."""
        now = time.perf_counter()
        telling = {session: it for session, it in self._sessions.items() if it.found}
        if not idle:
            soon = len(self._sessions) > 1 and now - self._told < LEAST
            if soon and not any(it.pacing.urgent for it in telling.values()):
                return
            if not any(it.draft.ahead or it.pacing.due(now) for it in telling.values()):
                return
        if not telling:
            return
        messages = list(BackSide.guesses({session: it.found for session, it in telling.items()}))
        expansions = sum(len(it.found) for it in telling.values())
        self._trace.instant("drafter", "send", now, expansions=expansions, bytes=sum(map(len, messages)))
        for it in telling.values():
            it.found = []
            it.pacing.said(now)
        self._told = now
        self._send(messages)
