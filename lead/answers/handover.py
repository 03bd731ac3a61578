"""From the decode loop's thread to the event loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from duo.errors import DuoError
from lead.answers.answer import RunningAnswer
from lead.decode.session import Step

PACE = 0.04
"""Seconds between two handovers of text; more with several answers, because each is slower. A reader sees no
difference, and each handover interrupts the decode loop, which shares the interpreter with the event loop. Backs hear
of every step at once, unless they rest."""

UNREAD_PACE = 0.25
"""The same if nobody reads any answer as it comes."""


class Handover:
    """Brings steps and ends of answers from the decoder's thread into the event loop, all together and not too
    often."""

    def __init__(self, post: Callable[[Callable[[], None]], None], count: Callable[[Step], None]) -> None:
        """`post`: runs something in the event loop. `count`: adds up what the backs did in a step."""
        self._post = post
        self._count = count
        self._pending: dict[RunningAnswer, list[Step]] = {}
        self._known: set[RunningAnswer] = set()
        """Answers with something handed over already. The first word of the others does not wait."""
        self._last = float("-inf")
        self._at_once = False

    def step(self, answer: RunningAnswer, step: Step) -> None:
        """An answer had a step. Called from the decoder's thread, as `stepped` and `end` are."""
        self._pending.setdefault(answer, []).append(step)
        if answer not in self._known:
            self._known.add(answer)
            self._at_once = True

    def stepped(self) -> None:
        """All answers have had their step: hand over now, or later."""
        now = time.monotonic()
        read = sum(answer.read for answer in self._known)
        if self._at_once or now - self._last >= (PACE * read**0.5 if read else UNREAD_PACE):
            self._last, self._at_once = now, False
            pending, self._pending = self._pending, {}
            if pending:
                self._post(lambda: self._take(pending))

    def end(self, answer: RunningAnswer, error: DuoError | None) -> None:
        self._known.discard(answer)
        steps = self._pending.pop(answer, [])

        def ended() -> None:
            self._take({answer: steps} if steps else {})
            answer.steps.put_nowait(error)

        self._post(ended)

    def _take(self, pending: Mapping[RunningAnswer, Sequence[Step]]) -> None:
        for answer, steps in pending.items():
            for step in steps:
                self._count(step)
            answer.steps.put_nowait(steps)
