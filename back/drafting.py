"""The work of a back without its thread: hear what the lead says, read or expand, send what was found.

One draft model serves all open sessions. A forward pass drafts for all of them, most where most is to be gained. A
session with much to read reads it in chunks, and between two chunks the others draft.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from duo.draft.claims import Claims
from duo.draft.draft import Draft
from duo.draft.follower import Follower
from duo.draft.model import DraftModel
from duo.draft.ngrams import NgramIndex
from duo.draft.pacing import MIN_PAUSE, Pacing
from duo.errors import ContextError, DuoError
from duo.guesses import Expansion
from duo.prefix import Prefix
from duo.trace import Trace
from duo.wire.messages import MAX_KNOWN, Begun, CommittedTokens, Ended, Event, State, Welcomed

log = logging.getLogger("back")

MAX_REMEMBERED = 1 << 16
"""An answer of more tokens, with its prompt, has no memory. A token takes about 220 bytes."""
INDEXED = 2048
"""Tokens that are indexed after a commit, which takes some milliseconds for a prompt."""

Found = Mapping[int, Sequence[Expansion]]
"""Expansions by session."""


@dataclass(slots=True, eq=False)
class OpenSession:
    """A session that the lead has begun. `found`: expansions that were not sent yet. The rest is for the log.

    `memory`: knows the prompt and the answer of this session alone, as sessions may belong to different people.
    """

    draft: Draft
    memory: Follower | None = None
    found: list[Expansion] = field(default_factory=list)
    pacing: Pacing = field(default_factory=Pacing)
    read: int = 0
    reading: float = 0.0
    drafted: int = 0
    drafting: float = 0.0


class Drafting:
    """Owns the draft model. One thread calls it, except for `known` and `interrupt`.

    send(found): hand expansions to the lead, or drop them if there is none. clock(): seconds by a steady clock.
    """

    def __init__(
        self, model: DraftModel, send: Callable[[Found], None], trace: Trace, clock: Callable[[], float]
    ) -> None:
        self._model = model
        self._send = send
        self._trace = trace
        self._clock = clock
        self._claims = Claims()
        self.sessions: dict[int, OpenSession] = {}
        self.state: State = "waiting"
        """For people to see. Other threads read it."""
        self._has_read = False
        """The last forward pass read a prompt."""
        self._sent_at = float("-inf")
        self._named: frozenset[int] = frozenset()
        """The sessions that the last Hello named."""

    def known(self) -> list[tuple[int, Prefix]]:
        """The open sessions with their tokens, for the Hello of the next stream."""
        known = [(session, Prefix(it.draft.prefix.tokens)) for session, it in list(self.sessions.items())][-MAX_KNOWN:]
        self._named = frozenset(session for session, _ in known)
        return known

    def interrupt(self, event: Event) -> None:
        """Give up the batch under way if this event makes most of it useless. The event itself is heard later."""
        if isinstance(event, CommittedTokens):
            self._model.interrupt_obsolete(event.session, event.start, event.tokens)

    def hear(self, event: Event) -> None:
        """Take in what the lead says. Raises ProtocolError if it makes no sense."""
        match event:
            case Begun(session, sampling, prompt_length, share, ends):
                if session not in self.sessions:
                    draft = self._model.open(session, sampling, prompt_length, share, ends)
                    self.sessions[session] = OpenSession(draft, self._memory(prompt_length))
            case CommittedTokens(session):
                if (it := self.sessions.get(session)) is not None:
                    self._commit(it, event)
            case Ended(session):
                self._end(session)
            case Welcomed():
                self._begin_stream(event)

    def _begin_stream(self, welcomed: Welcomed) -> None:
        # The lead does not report the end of a session that the Hello did not name. Those still open are begun again.
        for session in [session for session in self.sessions if session not in self._named]:
            self._model.slots.leave(self.sessions.pop(session).draft)
        self._model.drafts_for(welcomed.vocabulary_size, welcomed.differing)
        # Guesses of the last stream may be lost, and the lead would drop whatever continues them.
        for it in self.sessions.values():
            self._model.slots.leave(it.draft)
            it.draft.forget_guesses()
            it.found = []

    def _memory(self, prompt_length: int) -> Follower | None:
        if not self._model.longest_line or prompt_length > MAX_REMEMBERED:
            return None
        index = NgramIndex()
        return Follower(index, index.open(Prefix()), self._claims)

    def _foresee(self, it: OpenSession, new: Sequence[int]) -> None:
        """Let the draft model go on from where the text of this session goes on as before.

        The lead guesses the same from its own memory, so this is not sent. What the draft model finds on the way is.
        """
        draft = it.draft
        if it.memory is None:
            return
        if len(draft.prefix) > MAX_REMEMBERED:
            it.memory = None
            return
        it.memory.extend(draft.prefix, new)
        it.memory.index.catch_up(INDEXED)
        if draft.complete:
            longest = min(self._model.longest_line, draft.capacity // 4)
            draft.foresee(it.memory.expand(draft.prefix, draft.nodes, longest))

    def _commit(self, it: OpenSession, event: CommittedTokens) -> None:
        draft, now = it.draft, self._clock()
        known, expanded, guessed = len(draft.prefix), draft.answered, draft.guessed
        draft.commit(event.start, event.tokens, event.more)
        self._foresee(it, draft.prefix.tokens[known:])
        it.pacing.committed(now, draft.unguessed)
        if draft.unguessed:
            it.found = []  # it continues what the answer has left
        tokens, agreed = len(draft.prefix) - known, draft.guessed - guessed
        # `expanded`: drafted rows that the answer passed through. A token outside the guesses ends the tree.
        self._trace.instant(
            "drafter", "commit", now, tokens=tokens, length=len(draft.prefix),
            expanded=draft.answered - expanded, agreed=agreed, tree_lost=agreed < tokens,
        )  # fmt: skip
        try:
            self._model.check_context(draft)
        except ContextError as error:
            self._drop(draft, error)

    def _end(self, session: int) -> None:
        it = self.sessions.pop(session, None)
        if it is None:
            return
        draft = it.draft
        self._model.slots.leave(draft)
        if it.drafted:
            log.info(
                "drafted %d guesses (%.0f/s); %.0f%% of an answer of %d tokens were among them",
                it.drafted, it.drafted / max(it.drafting, 1e-9),
                100 * draft.guessed / max(1, draft.answered), len(draft.prefix) - draft.prompt_length,
            )  # fmt: skip

    def _drop(self, draft: Draft, error: DuoError) -> None:
        """Give up one session. The others go on."""
        log.warning("not drafting for this answer any more: %s", error)
        self._model.slots.leave(draft)
        del self.sessions[draft.session]

    def forget(self) -> None:
        """Drop all sessions: after a failure nobody knows what the engine holds."""
        self.sessions.clear()
        self._model.slots.forget()

    def work(self) -> bool:
        """One forward pass, which drafts or reads. Returns whether there was anything to do."""
        seated = self._model.assign_slots([it.draft for it in self.sessions.values()])
        behind = [draft for draft in seated if draft.backlog]
        ready = [draft for draft in seated if not draft.backlog and not draft.idle]
        self._has_read = bool(behind) and not (ready and self._has_read)
        if self._has_read:
            # The shortest backlog is soonest of use, and others that begin alike need not read it again.
            self._read(min(behind, key=lambda draft: draft.unread), drafting=bool(ready))
        elif ready:
            self._expand(ready)
        self._tell(idle=not behind and not ready)
        return bool(behind or ready)

    def _read(self, draft: Draft, drafting: bool) -> None:
        it, started = self.sessions[draft.session], self._clock()
        # A few tokens after a rejection are everyday work and not worth a report.
        if draft.backlog > self._model.n_ahead and not drafting:
            self.state = "catching up"
        try:
            it.read += self._model.read(draft, others=len(self.sessions) > 1)
        except ContextError as error:
            self._drop(draft, error)
            return
        it.reading += self._clock() - started
        if not draft.backlog:
            if it.read > self._model.n_ahead:
                log.info("caught up: %d tokens in %.2f s", it.read, it.reading)
            it.read, it.reading = 0, 0.0

    def _expand(self, drafts: Sequence[Draft]) -> None:
        self.state = "drafting"
        started = self._clock()
        found = self._model.expand(drafts)
        seconds = self._clock() - started
        rows = sum(each.rows for each in found)
        for each in found:
            if each.error is not None:
                self._drop(each.draft, each.error)
                continue
            it = self.sessions[each.draft.session]
            it.found += each.expansions
            it.drafted += each.rows
            it.drafting += seconds * each.rows / max(1, rows)

    def _tell(self, idle: bool) -> None:
        """Send all that was found if some of it is due. `idle`: nothing more will be found before the next event."""
        now = self._clock()
        telling = {session: it for session, it in self.sessions.items() if it.found}
        if not telling or not (idle or self._due(list(telling.values()), now)):
            return
        found = {session: it.found for session, it in telling.items()}
        for it in telling.values():
            it.found = []
            it.pacing.sent(now)
        self._sent_at = now
        self._send(found)

    def _due(self, telling: Sequence[OpenSession], now: float) -> bool:
        just_sent = len(self.sessions) > 1 and now - self._sent_at < MIN_PAUSE
        if just_sent and not any(it.pacing.urgent for it in telling):
            return False
        return any(it.draft.idle or it.pacing.due(now) for it in telling)
