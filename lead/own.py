"""A draft model of the lead's own, for where no back's guesses have come: the other half of synchronous speculation.

What backs guess it takes over and goes on from, and it drafts only when the planner says that this is worth the time,
which is the target's. Without backs that is classical speculative decoding with a tree (and what llama-server does with
`--model-draft`); with backs it bridges what they cannot know yet, a round trip and a draft step after every surprise.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from duo.draft_model import DraftModel
from duo.drafting import RIDERS, Draft
from duo.errors import ContextError
from duo.forecast import Own, own
from duo.session import Session
from duo.tree import Expansion

T = TypeVar("T")
log = logging.getLogger("lead")

NAME = "lead"
"""Who guessed what it guesses."""


class OwnDraft:
    """One session at a time. The decoder's thread uses it."""

    def __init__(self, model: DraftModel) -> None:
        self._model = model
        self._draft: Draft | None = None

    def begin(self, session: Session) -> None:
        """Read the session's prompt."""
        prompt = session.prefix.tokens
        self._draft = draft = self._model.open(session.id, session.params, len(prompt))
        draft.commit(0, prompt)
        self._model.take(draft)
        self._try(self._catch_up)

    def end(self) -> None:
        """The session has ended."""
        self._draft = None

    def committed(self, start: int, tokens: Sequence[int]) -> None:
        """Tokens from `start` on are final."""
        if self._draft is not None:
            self._draft.commit(start, tokens)

    def merge(self, found: Sequence[Expansion]) -> None:
        """Backs have guessed this."""
        if self._draft is not None:
            for expansion in found:
                self._draft.merge(expansion)

    @property
    def offer(self) -> Own | None:
        """What it would take to expand something now; None if there is nothing to expand."""
        if self._draft is None or self._draft.ahead:
            return None
        return own(self._draft.unread, self._draft.next_line, RIDERS, self._model.cost)

    def expand(self, since: float | None = None) -> Sequence[Expansion]:
        """One forward pass, after what is to be read. `since`: when its planning began, which is a part of its cost."""

        def expanded(draft: Draft) -> Sequence[Expansion]:
            found, _ = self._model.expand(draft, None if self._catch_up(draft) else since)
            return found

        return self._try(expanded) or ()

    def _catch_up(self, draft: Draft) -> int:
        """Read what is missing; returns how many tokens that was."""
        count = 0
        while read := self._model.read(draft):
            count += read
        return count

    def _try(self, do: Callable[[Draft], T]) -> T | None:
        """Whatever happens to the draft model, the answer goes on, without it."""
        if self._draft is None:
            return None
        try:
            return do(self._draft)
        except ContextError as error:
            log.info("this answer goes on without the draft model beside the target: %s", error)
        except Exception:
            log.exception("drafting beside the target failed; this answer goes on without")
        self._model.reset()
        self._draft = None
        return None
