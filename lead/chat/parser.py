"""Takes an answer apart as its text comes: text, thinking and calls of tools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from lead.api import FinishReason
from lead.chat.conversation import Tool
from lead.chat.forms.channels import Channels
from lead.chat.forms.form import Form
from lead.chat.forms.found import Found
from lead.chat.forms.marked import Marked
from lead.chat.forms.source import Source
from lead.chat.parts import Part, Text

Finish = Literal["stop", "length", "tool_calls"]


class AnswerParser(Protocol):
    """Finds the parts of one answer. Parts do not depend on how the text is cut into pieces."""

    @property
    def held(self) -> str:
        """The text that came out in no part yet."""

    @property
    def plain(self) -> bool:
        """Whether each further `push` gives its text as it is. Then no text needs to go through the parser."""

    def push(self, text: str) -> list[Part]:
        """Takes more text. Returns what is certain by now. A call comes when it is complete."""

    def flush(self, reason: FinishReason = "stop") -> list[Part]:
        """Returns the rest at the end of the answer. `reason`: why its text ended."""

    def finish_reason(self, reason: FinishReason) -> Finish:
        """Why the answer ended, in OpenAI's words. Only with 'tool_calls' are the calls safe to carry out."""


class PlainParser:
    """All is text."""

    held = ""
    plain = True

    def push(self, text: str) -> list[Part]:
        return [Text(text)] if text else []

    def flush(self, reason: FinishReason = "stop") -> list[Part]:
        return []

    def finish_reason(self, reason: FinishReason) -> Finish:
        return reason


class FormParser:
    """Text, thinking and calls, in the form of the model."""

    def __init__(self, form: Form, source: Source, found: Found, thinking: bool, keep: bool) -> None:
        """`thinking`: the answer begins within thinking. `keep`: thinking stays in the text, with its marks."""
        self._source, self._found = source, found
        reader = (
            Channels(source, found, thinking, keep) if form.channels else Marked(form, source, found, thinking, keep)
        )
        self._reader, self._reading = reader, reader.read()
        next(self._reading)

    @property
    def held(self) -> str:
        return self._source.kept

    @property
    def plain(self) -> bool:
        return self._reader.plain and not self._source.kept

    def push(self, text: str) -> list[Part]:
        if not text:
            return []
        self._source.add(text)
        next(self._reading)
        return self._found.take()

    def flush(self, reason: FinishReason = "stop") -> list[Part]:
        self._found.cut_counts = reason == "length" or self._found.must_call
        self._source.ended = True
        for _ in self._reading:
            raise RuntimeError("a reader waits for text after the end of the answer")
        return self._found.take()

    def finish_reason(self, reason: FinishReason) -> Finish:
        return "length" if self._found.cut else "tool_calls" if self._found.calls else reason


def parser_for(
    form: Form,
    tools: Sequence[Tool],
    *,
    parallel: bool = True,
    must_call: bool = False,
    thinking_open: bool = False,
    keep_thinking: bool = False,
) -> AnswerParser:
    """A new parser, for one answer.

    tools: those that count as called. must_call: a grammar makes the answer a call. thinking_open: the prompt ends
    within thinking. keep_thinking: thinking stays in the text, with its marks.
    """
    if keep_thinking and not (tools or form.channels or form.around):
        return PlainParser()
    return FormParser(form, Source(), Found(tools, parallel, must_call), thinking_open, keep_thinking)
