"""The parts of an answer as OpenAI's clients know them: content, reasoning_content and tool_calls."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from lead.chat.parts import Call, Part, Text, Thought


class Delta(NamedTuple):
    """More of an answer. Thinking is never beside other parts, because clients show it elsewhere."""

    reasoning: str = ""
    content: str = ""
    calls: Sequence[Call] = ()


class ThinkingStyle(NamedTuple):
    """Where thinking is told.

    apart: as `reasoning_content`. marks: it is in the content too, between these.
    """

    apart: bool = True
    marks: tuple[str, str] | None = None


class Deltas:
    """Sorts the parts of one answer."""

    def __init__(self, style: ThinkingStyle) -> None:
        self._style = style
        self._thinks = False
        """Whether the content ends within thinking."""

    def of(self, parts: Sequence[Part]) -> list[Delta]:
        if len(parts) == 1 and isinstance(parts[0], Text) and not self._thinks:
            return [Delta("", parts[0].text)]  # the usual case, for every token of an answer
        found: list[Delta] = []
        for is_thought, group in groupby(parts, lambda part: isinstance(part, Thought)):
            some = [*group]
            text = "".join([part.text for part in some if isinstance(part, Text | Thought)])
            if is_thought:
                found.append(Delta(text if self._style.apart else "", self._in_content(text)))
            else:
                calls = [part for part in some if isinstance(part, Call)]
                found.append(Delta("", self.end() + text, calls))
        return [delta for delta in found if any(delta)]

    def end(self) -> str:
        """What the content still needs where thinking ends."""
        ended, self._thinks = self._thinks, False
        return self._style.marks[1] if ended and self._style.marks else ""

    def _in_content(self, thought: str) -> str:
        if self._style.marks is None:
            return ""
        begun, self._thinks = self._thinks, True
        return thought if begun else self._style.marks[0] + thought
