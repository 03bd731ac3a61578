"""A draft model of the lead's own, for where no back's guesses have come: the other half of synchronous speculation.

What backs guess it takes over and goes on from, and it drafts only when the planner says that this is worth the time,
which is the target's. Without backs that is classical speculative decoding with a tree (and what llama-server does with
`--model-draft`); with backs it bridges what they cannot know yet, a round trip and a draft step after every surprise.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from duo.draft_model import DraftModel
from duo.drafting import RIDERS, Draft
from duo.errors import ContextError, RequestError
from duo.forecast import Own, own
from duo.session import Session
from duo.tree import Expansion

T = TypeVar("T")
log = logging.getLogger("lead")

NAME = "lead"
"""Who guessed what it guesses."""


class OwnDraft:
    """Its model has as many slots as the target. The decoder's thread uses it."""

    def __init__(self, model: DraftModel) -> None:
        self._model = model
        self._drafts: dict[int, Draft] = {}

    def begin(self, session: Session, alone: bool) -> None:
        """An answer begins. `alone`: no other is under way, so the prompt is read now; else when the planner asks for
        drafting, which knows what that takes."""
        prompt = session.prefix.tokens
        draft = self._model.open(session.id, session.params, len(prompt), eos=session.eos)
        draft.commit(0, prompt)
        self._drafts[session.id] = draft
        if alone:
            self._try(draft, self._catch_up)

    def end(self, session: Session) -> None:
        """The session has ended."""
        if (draft := self._drafts.get(session.id)) is not None:
            self._try(draft, self._model.leave)
            self._drafts.pop(session.id, None)

    def committed(self, session: Session, start: int, tokens: Sequence[int]) -> None:
        """Tokens of the session from `start` on are final."""
        if (draft := self._drafts.get(session.id)) is not None:
            draft.commit(start, tokens)

    def merge(self, session: Session, found: Iterable[Expansion]) -> None:
        """Backs have guessed this."""
        if (draft := self._drafts.get(session.id)) is not None:
            for expansion in found:
                draft.merge(expansion)

    def offer(self, session: Session) -> Own | None:
        """What it would take to expand something now; None if there is nothing to expand."""
        draft = self._drafts.get(session.id)
        if draft is None or draft.ahead:
            return None
        # In a slot it is known what need not be read, because another answer began alike.
        self._try(draft, self._model.sit)
        if session.id not in self._drafts:
            return None
        return own(draft.unread, draft.next_line, RIDERS, self._model.cost)

    def expand(self, session: Session, since: float | None = None) -> Sequence[Expansion]:
        """One forward pass for the session, after what is to be read. `since`: when its planning began, which is a part
        of its cost."""

        def expanded(draft: Draft) -> Sequence[Expansion]:
            found = self._model.expand([draft], None if self._catch_up(draft) else since)
            for each in found:
                if each.error is not None:
                    raise each.error
            return found[0].expansions if found else ()

        draft = self._drafts.get(session.id)
        return self._try(draft, expanded) or () if draft is not None else ()

    def _catch_up(self, draft: Draft) -> int:
        """Read what is missing; returns how many tokens that was."""
        self._model.sit(draft)
        count = 0
        while read := self._model.read(draft):
            count += read
        return count

    def _try(self, draft: Draft, do: Callable[[Draft], T]) -> T | None:
        """Whatever happens to the draft model, the answer goes on, without it; others keep it."""
        try:
            return do(draft)
        except (ContextError, RequestError) as error:
            log.info("this answer goes on without the draft model beside the target: %s", error)
            self._model.leave(draft)
        except Exception:
            log.exception("drafting beside the target failed; this answer goes on without")
            self._model.reset()
        del self._drafts[draft.session]
        return None
