"""Takes an answer apart as its text comes: text, thinking and calls of tools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from lead.api import FinishReason
from lead.chat.json_calls import CallParser
from lead.chat.parts import Part, Text

Finish = Literal["stop", "length", "tool_calls"]


class AnswerParser(Protocol):
    """Finds the parts of one answer. Parts do not depend on how the text is cut into pieces."""

    @property
    def held(self) -> str:
        """The text that came out in no part yet."""

    def push(self, text: str) -> list[Part]:
        """Takes more text. Returns what is certain by now. A call comes when it is complete."""

    def flush(self, reason: FinishReason = "stop") -> list[Part]:
        """Returns the rest at the end of the answer. `reason`: why its text ended."""

    def finish_reason(self, reason: FinishReason) -> Finish:
        """Why the answer ended, in OpenAI's words. Only with 'tool_calls' are the calls safe to carry out."""


class PlainParser:
    """All is text."""

    held = ""

    def push(self, text: str) -> list[Part]:
        return [Text(text)] if text else []

    def flush(self, reason: FinishReason = "stop") -> list[Part]:
        return []

    def finish_reason(self, reason: FinishReason) -> Finish:
        return reason


class JsonParser:
    """Text, and calls that are JSON."""

    def __init__(self, names: Sequence[str], parallel: bool, must_call: bool) -> None:
        self._calls = CallParser(names, parallel, must_call)

    @property
    def held(self) -> str:
        return self._calls.held

    def push(self, text: str) -> list[Part]:
        shown, calls = self._calls.push(text)
        return [*([Text(shown)] if shown else []), *calls]

    def flush(self, reason: FinishReason = "stop") -> list[Part]:
        shown, calls = self._calls.flush(reason)
        return [*([Text(shown)] if shown else []), *calls]

    def finish_reason(self, reason: FinishReason) -> Finish:
        return self._calls.finish_reason(reason)
