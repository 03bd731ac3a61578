"""The text of an answer, read letter by letter while it comes.

Readers are generators. They are written as if the whole text were there, and yield where more of it must come. So what
they find cannot depend on how the text is cut into pieces.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Generator
from typing import TypeVar

T = TypeVar("T")
Reading = Generator[None, None, T]
"""Reads from a source. It yields wherever the source has no more text for now."""

MAX_AGAIN = 1_000_000
"""Letters of an answer that are read again after what began like a call was none. Then such things become text as a
whole, because an answer could be written so that each of its letters is read as often as it has letters."""

SPACES = re.compile(r"\s*+")


class NoCall(Exception):  # noqa: N818 - it is an answer, not an error
    """What stands here is no call of one of the tools: it is text."""


class Ended(Exception):  # noqa: N818 - likewise
    """The answer ended here, where more had to follow."""


class CutCall(Exception):  # noqa: N818 - likewise
    """The answer ended within a call. The name is empty if it did not come yet."""

    def __init__(self, name: str = "", arguments: str = "") -> None:
        super().__init__(name)
        self.name, self.arguments = name, arguments


class Source:
    """Text that comes in pieces. What was read stays until `settle`, and can be read again until then."""

    def __init__(self) -> None:
        self._piece = ""
        self._start = self._at = 0
        self._before: list[str] = []
        """Earlier pieces that were read and are not settled."""
        self._length = 0
        """Characters in them."""
        self.settled = 0
        """How often `settle` was called."""
        self.ended = False
        """Whether nothing follows."""

    def add(self, text: str) -> None:
        """More text has come. Everything before it must be read."""
        if self._start < self._at:
            self._before.append(self._piece[self._start : self._at])
            self._length += self._at - self._start
        self._piece = self._piece[self._at :] + text
        self._start = self._at = 0

    @property
    def kept(self) -> str:
        """What was read and is not settled."""
        return "".join(self._before) + self._piece[self._start : self._at]

    @property
    def place(self) -> int:
        """How many characters were read since `settle`."""
        return self._length + self._at - self._start

    def since(self, place: int) -> str:
        """What was read after this place."""
        return self.kept[place:]

    def settle(self) -> None:
        """What was read is done with."""
        self.settled += 1
        self._before.clear()
        self._length = 0
        self._start = self._at

    def rewind(self, place: int = 0) -> None:
        """Everything read after this place will be read again."""
        if place >= self._length:
            self._at = self._start + place - self._length
            return
        kept = self.kept
        self._piece = kept[place:] + self._piece[self._at :]
        self._at = self._start = 0
        self._before = [kept[:place]]
        self._length = place

    def now(self, run: re.Pattern[str]) -> str:
        """Reads as much of a run of letters as has come. `run` matches no text at all, too."""
        found = run.match(self._piece, self._at)
        if found is None:
            return ""
        self._at = found.end()
        return found[0]

    def peek(self) -> Reading[str]:
        """The next letter, which stays unread; empty at the end of the answer."""
        while self._at == len(self._piece):
            if self.ended:
                return ""
            yield
        return self._piece[self._at]

    def more(self) -> Reading[str]:
        """The next letter, which stays unread. Raises Ended."""
        letter = yield from self.peek()
        if not letter:
            raise Ended
        return letter

    def skip(self) -> None:
        """Reads the letter that was peeked at."""
        self._at += 1

    def take(self) -> Reading[str]:
        """Reads a letter. Raises Ended."""
        letter = yield from self.more()
        self._at += 1
        return letter

    def run(self, letters: re.Pattern[str]) -> Reading[str]:
        """Reads a run of letters to its end."""
        found = self.now(letters)
        while self._at == len(self._piece) and not self.ended:
            yield
            found += self.now(letters)
        return found

    def long_run(self, letters: re.Pattern[str], pieces: list[str]) -> Reading[None]:
        """The same for long runs, which are added to `pieces`. So many small pieces take no quadratic time."""
        pieces.append(self.now(letters))
        while self._at == len(self._piece) and not self.ended:
            yield
            pieces.append(self.now(letters))

    def spaces(self) -> Reading[str]:
        """Reads white space."""
        return self.run(SPACES)

    def next_is(self, text: str) -> Reading[bool]:
        """Reads this text, or as much of it as stands here. Returns whether it stands here whole.

        Raises Ended if the answer ends within it.
        """
        for letter in text:
            here = yield from self.more()
            if here != letter:
                return False
            self._at += 1
        return True

    def expect(self, text: str) -> Reading[None]:
        """Reads this text. Raises NoCall if another stands here."""
        if not (yield from self.next_is(text)):
            raise NoCall

    def one_of(self, texts: Collection[str]) -> Reading[tuple[bool, str]]:
        """Reads one of these texts, of which none begins another one. Returns whether one stands here, and what was
        read, which may be the beginning of one. Raises Ended if the answer ends within one."""
        read, left = "", list(texts)
        while True:
            letter = yield from self.more()
            left = [text for text in left if text.startswith(read + letter)]
            if not left:
                return False, read
            self._at += 1
            read += letter
            if read in left:
                return True, read

    def until(self, mark: str, pieces: list[str]) -> Reading[None]:
        """Reads all text before the mark, which is added to `pieces`, and the mark. Raises Ended.

        The mark has its first letter only once.
        """
        plain = re.compile(f"[^{re.escape(mark[0])}]*+")
        while True:
            yield from self.long_run(plain, pieces)
            before = self.place
            if (yield from self.next_is(mark)):
                return
            pieces.append(mark[: self.place - before])
