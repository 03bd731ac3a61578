"""A draft model of the lead's own, for where no back's guesses have come: the other half of synchronous speculation.

What backs guess it takes over and goes on from, and it drafts only when the planner says that this is worth the time,
which is the target's. Without backs that is classical speculative decoding with a tree (and what llama-server does with
`--model-draft`); with backs it bridges what they cannot know yet, a round trip and a draft step after every surprise.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from duo.draft.draft import Draft
from duo.draft.model import DraftModel
from duo.draft.policy import MAX_RIDERS
from duo.errors import ContextError, DeadEndError, RequestError
from duo.guesses import Expansion
from lead.decode.session import Session
from lead.plan.arrivals import DraftOffer, offer_of

T = TypeVar("T")
log = logging.getLogger("lead")

NAME = "lead"
"""Who guessed what it guesses."""


class LocalDraft:
    """Its model has as many slots as the target. The decoder's thread uses it."""

    def __init__(self, model: DraftModel) -> None:
        self._model = model
        self._drafts: dict[int, Draft] = {}

    def begin(self, session: Session, alone: bool) -> None:
        """An answer has its first tokens. `alone`: no other is under way, so the prompt is read now; else when the
        planner asks for drafting, which knows what that takes."""
        draft = self._model.open(session.id, session.params, session.prompt_length, eos=session.eos)
        self._drafts[session.id] = draft
        self.committed(session, 0, session.prefix.tokens)
        self.merge(session, session.tree.known())
        if alone and session.id in self._drafts:
            self._try(draft, self._catch_up)

    def end(self, session: Session) -> None:
        """The session has ended."""
        if (draft := self._drafts.get(session.id)) is not None:
            self._try(draft, self._model.slots.leave)
            self._drafts.pop(session.id, None)

    def committed(self, session: Session, start: int, tokens: Sequence[int]) -> None:
        """Tokens of the session from `start` on are final."""

        if (draft := self._drafts.get(session.id)) is not None:
            self._try(draft, lambda draft: draft.commit(start, tokens))

    def merge(self, session: Session, found: Iterable[Expansion]) -> None:
        """Backs have guessed this."""

        def take_in(draft: Draft) -> None:
            for expansion in found:
                draft.merge(expansion)

        if (draft := self._drafts.get(session.id)) is not None:
            self._try(draft, take_in)

    def offer(self, sessions: Iterable[Session]) -> DraftOffer | None:
        """What it would take to expand something for these now; None if there is nothing to expand."""
        ready: list[tuple[int, int]] = []
        for draft in self._of(sessions):
            if draft.idle:
                continue
            # In a slot it is known what need not be read, because another answer began alike.
            self._try(draft, self._model.ensure_slot)
            if draft.session in self._drafts:
                ready.append((draft.unread, draft.next_rows))
        return offer_of(ready, MAX_RIDERS, self._model.cost) if ready else None

    def expand(self, sessions: Iterable[Session], since: float | None = None) -> Mapping[int, Sequence[Expansion]]:
        """One forward pass for these sessions, after what is to be read: what it found, by session. `since`: when its
        planning began, which is a part of its cost."""
        asked = self._of(sessions)
        read = sum([self._try(draft, self._catch_up) or 0 for draft in asked])
        able = [draft for draft in asked if draft.session in self._drafts]
        found: dict[int, Sequence[Expansion]] = {}
        try:
            for each in self._model.expand(able, None if read else since):
                if each.error is not None:
                    self._without(each.draft, each.error)
                else:
                    found[each.draft.session] = each.expansions
        except Exception as error:
            for draft in able:
                self._without(draft, error)
        return found

    def _of(self, sessions: Iterable[Session]) -> list[Draft]:
        return [draft for session in sessions if (draft := self._drafts.get(session.id)) is not None]

    def _catch_up(self, draft: Draft) -> int:
        """Read what is missing; returns how many tokens that was."""
        self._model.ensure_slot(draft)
        count = 0
        while read := self._model.read(draft):
            count += read
        return count

    def _try(self, draft: Draft, do: Callable[[Draft], T]) -> T | None:
        """Whatever happens to the draft model, the answer goes on, without it; others keep it."""
        try:
            return do(draft)
        except Exception as error:
            self._without(draft, error)
        return None

    def _without(self, draft: Draft, error: Exception) -> None:
        if isinstance(error, (ContextError, RequestError, DeadEndError)):
            log.info("this answer goes on without the draft model beside the target: %s", error)
            self._model.slots.leave(draft)
        else:
            log.error("drafting beside the target failed; this answer goes on without", exc_info=error)
            self._model.slots.forget()
        self._drafts.pop(draft.session, None)
