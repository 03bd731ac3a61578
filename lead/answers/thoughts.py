"""Which pieces of an answer are thinking, for whoever watches it."""

from __future__ import annotations

from lead.api import ThinkingMarks


class Thoughts:
    """Follows the marks around thinking through the text of one answer."""

    def __init__(self, marks: ThinkingMarks) -> None:
        self._marks = marks
        self._opens = marks.opens
        self._within = marks.begun
        self._kept = max(map(len, (*marks.opens, *marks.closes)), default=0)
        self._tail = ""
        """The last of the text since the last mark. A mark may come in parts."""

    def take(self, text: str) -> bool:
        """Takes more of the text. Returns whether any of it is thinking, or a mark."""
        self._tail += text
        thought = self._within
        while (end := self._next()) >= 0:
            self._tail = self._tail[end:]
            self._within = not self._within
            thought = True
        if not (self._within or self._marks.anywhere or self._may_begin()):
            self._opens = ()
        self._tail = self._tail[-self._kept :] if self._kept else ""
        return thought

    def _next(self) -> int:
        """Where the next mark ends, or -1."""
        marks = self._marks.closes if self._within else self._opens
        ends = [self._tail.find(mark) + len(mark) for mark in marks if mark in self._tail]
        return min(ends, default=-1)

    def _may_begin(self) -> bool:
        """Whether the answer may still begin with a mark."""
        text = self._tail.lstrip()
        return any(mark.startswith(text) for mark in self._opens)
