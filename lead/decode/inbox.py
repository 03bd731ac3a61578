"""Guesses on their way from the event loop to the decode loop."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from duo.guesses import Expansion

DEPTH = 128
"""Messages of one back that wait for the next step; when there are more, the oldest go. Enough for all that a back says
while the target reads a piece of a prompt: later guesses hang from earlier ones."""


class Message(NamedTuple):
    """Guesses of a back by session, and when they came, by the clock of the one who put them in."""

    back: str
    came: float
    guesses: Sequence[tuple[int, Iterable[Expansion]]]


class Inbox:
    """One thread puts letters in, another takes them out and may wait for them."""

    def __init__(self) -> None:
        self._boxes: dict[str, deque[Message]] = {}
        self._bell = threading.Event()
        self._last = ""
        """Who was heard last."""

    def put(self, message: Message) -> None:
        self._boxes.setdefault(message.back, deque(maxlen=DEPTH)).append(message)
        self._bell.set()

    def drop(self, back: str) -> None:
        """The back is gone, and what it said with it."""
        self._boxes.pop(back, None)

    def take(self) -> Iterator[Message]:
        """The letters that are there now, a back's in their order, one of each back after the other. It begins after
        the back that was heard last: whoever stops before the end hears all of them alike. What is left is there the
        next time, and nobody waits for it."""
        self._bell.clear()
        # Counted beforehand: a back that says more than can be heard would hold up the answer.
        boxes = [(back, box, count) for back, box in list(self._boxes.items()) if (count := len(box))]
        first = next((i + 1 for i, (back, _, _) in enumerate(boxes) if back == self._last), 0)
        boxes = boxes[first:] + boxes[:first]
        try:
            for number in range(max((count for _, _, count in boxes), default=0)):
                for back, box, count in boxes:
                    if number < count:
                        self._last = back
                        yield box.popleft()
        finally:
            if any(box for _, box, _ in boxes):
                self._bell.set()

    def wait(self, seconds: float) -> bool:
        """Until there is a letter that nobody has taken, or the time is up; whether there is one."""
        return self._bell.wait(seconds)
