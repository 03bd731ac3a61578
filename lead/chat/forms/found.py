"""What a parser has found in an answer: text, thinking, and calls of tools."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lead.chat.conversation import Tool
from lead.chat.forms.literals import whole
from lead.chat.forms.source import NoCall, Reading, Source
from lead.chat.forms.typed import schema_of, typed
from lead.chat.parts import Call, Part, Text, Thought


class Found:
    """The parts of one answer, and the tools that it may call.

    parallel: whether calls after the first one count. must_call: a grammar makes the answer a call.
    """

    def __init__(self, tools: Sequence[Tool], parallel: bool = True, must_call: bool = False) -> None:
        self.tools: Mapping[str, Tool] = {tool.name: tool for tool in tools}
        self.parallel, self.must_call = parallel, must_call
        self.calls = 0
        """How many calls were found."""
        self.cut = False
        """Whether the answer ended within a call, or before a call that it had to have."""
        self.cut_counts = False
        """Whether a call that the answer ends in is one: a limit ended it, and not the model."""
        self._parts: list[Part] = []
        self._pending: list[Call] = []
        """Calls that are whole. What stands around them does not have to be a call's yet."""
        self._ids: set[str] = set()

    def take(self) -> list[Part]:
        """The parts since the last time."""
        parts, self._parts = self._parts, []
        return parts

    def text(self, text: str) -> None:
        """Text follows."""
        if text:
            self._parts.append(Text(text))

    def thought(self, text: str) -> None:
        """Thinking follows."""
        if text:
            self._parts.append(Thought(text))

    def check(self, name: str) -> None:
        """Raises NoCall unless a tool has this name."""
        if name not in self.tools:
            raise NoCall

    def begins(self, name: str) -> None:
        """Raises NoCall unless a tool's name begins like this."""
        if not any(each.startswith(name) for each in self.tools):
            raise NoCall

    def call(self, name: str, arguments: Mapping[str, Any], id: str = "") -> None:
        """A whole call follows, which `settle` makes certain. Raises NoCall if no tool has this name.

        id: as the model wrote it, if it did.
        """
        self.check(name)
        try:
            written = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
        except (ValueError, RecursionError):
            raise NoCall from None
        self._pending.append(Call(self._id(id), name, written))

    def texts(self, name: str, arguments: Mapping[str, Any], id: str = "") -> None:
        """The same for arguments of which some are text that stands for a value. The tool's schema says which."""
        self.check(name)
        parameters = self.tools[name].parameters
        self.call(name, {key: typed(value, schema_of(parameters, key)) for key, value in arguments.items()}, id)

    def settle(self) -> None:
        """The calls so far are certain."""
        for call in self._pending:
            self._add(call)
        self._pending = []

    def drop(self) -> None:
        """Calls that are not certain were none."""
        self._pending = []

    def cut_call(self, name: str, arguments: str) -> None:
        """The answer ended within a call. The name is empty if it did not come yet."""
        self.settle()
        if self.parallel or not self.calls:
            self.cut = True
            if name:
                self._add(Call(self._id(""), name, whole(arguments), whole=False))

    def _add(self, call: Call) -> None:
        if self.parallel or not self.calls:
            self.calls += 1
            self._parts.append(call)

    def _id(self, given: str) -> str:
        """Nine letters and digits, for Mistral's templates accept nothing else. A model's own stays, if it has one."""
        id = given if given and given not in self._ids else secrets.token_hex(5)[:9]
        self._ids.add(id)
        return id


Reader = Callable[[Source, Found], Reading[None]]
"""Reads calls after the mark that begins them. Raises NoCall, CutCall or Ended. What it read last may still be text
until `Source.settle`."""
