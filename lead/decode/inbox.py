"""Guesses on their way from the event loop to the decode loop."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from duo.guesses import Expansion

DEPTH = 128
"""Messages of one back that wait for the next step; beyond that the oldest go. Enough for all that a back says while
the target reads a chunk of a prompt, because later guesses hang from earlier ones."""


class Message(NamedTuple):
    """Guesses of a back by session, and when they came, by the clock of the one who put them in."""

    back: str
    came: float
    guesses: Sequence[tuple[int, Iterable[Expansion]]]


class Inbox:
    """One thread puts messages in. Another takes them out, and may wait for them."""

    def __init__(self) -> None:
        self._boxes: dict[str, deque[Message]] = {}
        self._bell = threading.Event()
        self._last = ""
        """The back heard last."""

    def put(self, message: Message) -> None:
        self._boxes.setdefault(message.back, deque(maxlen=DEPTH)).append(message)
        self._bell.set()

    def drop(self, back: str) -> None:
        """The back is gone, and its messages with it."""
        self._boxes.pop(back, None)

    def take(self) -> Iterator[Message]:
        """Yields the waiting messages, one per back in turn, starting after the back heard last. So a reader who stops
        early treats all backs alike. The rest is there next time, and `wait` returns at once for it."""
        self._bell.clear()
        # Counted beforehand, or a back that never stops would hold up the answer.
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
        """Wait for a message that nobody has taken. Returns whether there is one; false when the time is up."""
        return self._bell.wait(seconds)
