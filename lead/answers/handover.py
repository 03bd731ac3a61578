"""From the decode loop's thread to the event loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from duo.errors import DuoError
from lead.answers.answer import RunningAnswer
from lead.decode.session import Step

PACE = 0.04
"""Seconds between two handovers of text; more where there are several answers, each of which is slower then. Whoever
reads it sees no difference, and each handover interrupts the decode loop, with which the event loop shares the
interpreter. Backs hear of every step at once, unless they rest."""

UNREAD_PACE = 0.25
"""The same where nobody reads any of the answers as they come."""


class Handover:
    """Brings what becomes of answers from the decoder's thread into the event loop, all of it together and not oftener
    than need be: the event loop takes the interpreter from the decode loop each time."""

    def __init__(self, post: Callable[[Callable[[], None]], None], count: Callable[[Sequence[Step]], None]) -> None:
        """post: runs something in the event loop. count: books what the backs did in some steps."""
        self._post = post
        self._count = count
        self._pending: dict[RunningAnswer, list[Step]] = {}
        self._known: set[RunningAnswer] = set()
        """Answers of which something has been handed over: a first word does not wait."""
        self._last = float("-inf")
        self._at_once = False

    def step(self, answer: RunningAnswer, step: Step) -> None:
        """Called from the decoder's thread, as all that follows."""
        self._pending.setdefault(answer, []).append(step)
        if answer not in self._known:
            self._known.add(answer)
            self._at_once = True

    def stepped(self) -> None:
        """All answers have had their step."""
        now = time.monotonic()
        read = sum(answer.read for answer in self._known)
        if self._at_once or now - self._last >= (PACE * read**0.5 if read else UNREAD_PACE):
            self._last, self._at_once = now, False
            self._hand_over()

    def end(self, answer: RunningAnswer, error: DuoError | None) -> None:
        self._known.discard(answer)
        steps = self._pending.pop(answer, [])
        self._post(lambda: self._take([(answer, steps)], [(answer, error)]))

    def _hand_over(self) -> None:
        pending, self._pending = list(self._pending.items()), {}
        if pending:
            self._post(lambda: self._take(pending, ()))

    def _take(
        self,
        pending: Sequence[tuple[RunningAnswer, Sequence[Step]]],
        ended: Sequence[tuple[RunningAnswer, DuoError | None]],
    ) -> None:
        for answer, steps in pending:
            if steps:
                self._count(steps)
                answer.steps.put_nowait(steps)
        for answer, error in ended:
            answer.steps.put_nowait(error)
