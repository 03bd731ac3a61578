"""Guesses on their way from the event loop to the decode loop."""

from __future__ import annotations

import threading
from collections import deque
from typing import NamedTuple

from duo.v1 import duo_pb2 as pb

DEPTH = 128
"""Messages of one back that wait for the next step; when there are more, the oldest go. Enough for all that a back says
while the target reads a piece of a prompt: later guesses hang from earlier ones."""


class Letter(NamedTuple):
    """A message of guesses, and when it came, by the clock of the one who put it in."""

    back: str
    came: float
    guesses: pb.Guesses


class Mailbox:
    """One thread puts letters in, another takes them out and may wait for them."""

    def __init__(self) -> None:
        self._boxes: dict[str, deque[Letter]] = {}
        self._bell = threading.Event()

    def put(self, letter: Letter) -> None:
        self._boxes.setdefault(letter.back, deque(maxlen=DEPTH)).append(letter)
        self._bell.set()

    def drop(self, back: str) -> None:
        """The back is gone, and what it said with it."""
        self._boxes.pop(back, None)

    def take(self) -> list[Letter]:
        """All letters that are there now, those of one back in their order."""
        self._bell.clear()
        letters: list[Letter] = []
        for box in list(self._boxes.values()):
            # Not `while box`: a back that says more than can be heard would hold up the answer.
            letters += [box.popleft() for _ in range(len(box))]
        return letters

    def wait(self, seconds: float) -> None:
        """Until there is a letter that `take` has not seen, or the time is up."""
        self._bell.wait(seconds)
