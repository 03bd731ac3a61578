"""The draft model beside the target.

It goes on from what the backs have guessed. It drafts only when the planner says so, because its time is the target's.
Without backs this is classical speculative decoding with a tree (as llama-server's `--model-draft`, which has a chain).
With backs it bridges the round trip and the draft step that they need after a token that nobody had guessed.
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
"""The name under which its guesses are in the tree."""


class LocalDraft:
    """The drafts of all answers. Its model has as many slots as the target. The decoder's thread uses it."""

    def __init__(self, model: DraftModel) -> None:
        self._model = model
        self._drafts: dict[int, Draft] = {}

    def begin(self, session: Session, alone: bool) -> None:
        """An answer has its first tokens. `alone`: read the prompt now, because no other answer is under way. Else it
        is read when the planner, which knows its cost, asks for drafting."""
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

    def foresee(self, session: Session, found: Sequence[Expansion]) -> None:
        """Memory has guessed this."""
        if self._model.longest_line and (draft := self._drafts.get(session.id)) is not None:
            last = len(session.prefix) + self._model.longest_line
            near = [expansion for expansion in found if expansion.length < last]
            self._try(draft, lambda draft: draft.foresee(near))

    def offer(self, sessions: Iterable[Session]) -> DraftOffer | None:
        """What it takes to expand something for these sessions now; None if there is nothing to expand."""
        ready: list[tuple[int, int]] = []
        for draft in self._of(sessions):
            if draft.idle:
                continue
            # Only in a slot is it known how much need not be read, because another answer began alike.
            self._try(draft, self._model.ensure_slot)
            if draft.session in self._drafts:
                ready.append((draft.unread, draft.next_rows))
        return offer_of(ready, MAX_RIDERS, self._model.cost) if ready else None

    def expand(self, sessions: Iterable[Session], since: float | None = None) -> Mapping[int, Sequence[Expansion]]:
        """Read what is missing, then run one forward pass for these sessions. Returns what it found, by session.

        `since`: when its planning began, which counts as its cost.
        """
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
        """Read what is missing. Returns how many tokens that was."""
        self._model.ensure_slot(draft)
        count = 0
        while read := self._model.read(draft):
            count += read
        return count

    def _try(self, draft: Draft, do: Callable[[Draft], T]) -> T | None:
        """If the draft model fails, this answer goes on without it, and the others keep it."""
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
