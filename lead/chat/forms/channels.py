"""Reads an answer that consists of messages in channels, as gpt-oss writes it (harmony).

    <|channel|>analysis<|message|>..<|end|><|start|>assistant<|channel|>final<|message|>..<|return|>
    <|channel|>commentary to=functions.f <|constrain|>json<|message|>{"x": 1}<|call|>

The prompt ends within the first header, after `<|start|>assistant`.
"""

from __future__ import annotations

import re
from typing import Any

from lead.chat.forms.found import Found
from lead.chat.forms.literals import JSON, value
from lead.chat.forms.names import certain
from lead.chat.forms.source import MAX_AGAIN, CutCall, Ended, NoCall, Reading, Source

START, CHANNEL, CONSTRAIN, MESSAGE = "<|start|>", "<|channel|>", "<|constrain|>", "<|message|>"
END, CALL, RETURN = "<|end|>", "<|call|>", "<|return|>"
THINKING = "analysis"
THINKS = f"{CHANNEL}{THINKING}{MESSAGE}"
"""How thinking begins."""
TURNS = f"{END}{START}assistant{CHANNEL}"
"""How it ends, and another channel begins."""
NEXT = ("final", "commentary")
"""The channels that may follow."""
ANSWERS = f"{TURNS}final{MESSAGE}"
"""How it ends, and the answer begins."""
MAX_HEADER = 400
"""Letters of a header. A longer one is text."""

_ENDS = (END, CALL, RETURN)
_IN_HEADER = re.compile(r"[^<]*+")
_RECIPIENT = re.compile(r"\bto=([^\s<]+)")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")


class Channels:
    """Reads one answer.

    thinking: the answer begins within a message of thinking. keep: thinking stays in the text, with its marks.
    """

    plain = False

    def __init__(self, source: Source, found: Found, thinking: bool, keep: bool) -> None:
        self._source, self._found, self._thinking, self._keep = source, found, thinking, keep
        self._first = True
        """Whether the first message is next, of which the prompt has begun the header."""
        self._again = MAX_AGAIN

    def read(self) -> Reading[None]:
        """Reads the answer to its end."""
        source = self._source
        yield from source.spaces()
        letter = yield from source.peek()
        if self._thinking or (letter and letter not in "<t"):
            source.rewind()
            yield from self._body(self._thinking)  # without a header
            self._first = False
        while (yield from source.peek()):
            try:
                yield from self._message()
            except NoCall:
                self._found.drop()
                self._again -= source.place
                if self._again >= 0:
                    source.rewind()
                yield from self._as_text()
            except (CutCall, Ended) as end:
                self._found.drop()
                if self._found.cut_counts:
                    if isinstance(end, CutCall):
                        self._found.cut_call(end.name, end.arguments)
                else:
                    self._found.text(source.kept)
                source.settle()
            self._first = False
        self._found.text(source.kept)
        source.settle()
        self._found.cut |= self._found.must_call and not self._found.calls

    def _message(self) -> Reading[None]:
        """Reads a message with its header, which may be a call. Raises NoCall if none stands here."""
        source, found = self._source, self._found
        header = yield from self._header()
        channel = found_channel[1] if (found_channel := _CHANNEL.search(header)) else ""
        recipient = to[1] if (to := _RECIPIENT.search(header)) else ""
        name = recipient.removeprefix("functions.")
        if name not in found.tools:
            if not (channel or recipient):
                raise NoCall
            if self._keep and channel == THINKING:
                found.text(source.kept)
            source.settle()
            yield from self._body(channel == THINKING)
            return
        yield from source.spaces()
        begin = source.place
        arguments: dict[str, Any] = {}
        try:
            letter = yield from source.peek()
            if letter == "{":
                arguments = yield from value(source, JSON)
            elif letter not in ("<", "") or (not letter and found.cut_counts):
                raise NoCall if letter else Ended
        except Ended:
            raise CutCall(name, source.since(begin)) from None
        yield from source.spaces()
        found.call(name, arguments)
        try:
            here, read = yield from source.one_of([*_ENDS, START, CHANNEL])
        except Ended:
            here, read = True, ""
        if not here:
            raise NoCall
        if read in (START, CHANNEL):
            source.rewind(source.place - len(read))
        certain(source, found)

    def _header(self) -> Reading[str]:
        """Reads a header and the mark after it."""
        source, place = self._source, self._source.place
        letter = yield from source.more()
        if letter != "<" and not self._first:
            raise NoCall
        if letter != "<":
            yield from source.expect("to=")
        while True:
            while (yield from source.more()) != "<":
                source.skip()
                if source.place - place > MAX_HEADER:
                    raise NoCall
            here, mark = yield from source.one_of([START, CHANNEL, CONSTRAIN, MESSAGE])
            if not here or source.place - place > MAX_HEADER:
                raise NoCall
            if mark == MESSAGE:
                return source.since(place)

    def _body(self, thinking: bool) -> Reading[None]:
        """Reads the text of a message, and what ends it."""
        source, found = self._source, self._found
        keep = thinking and self._keep
        say = found.thought if thinking and not keep else found.text
        while letter := (yield from source.peek()):
            if letter == "<":
                place = source.place
                try:
                    here, mark = yield from source.one_of([*_ENDS, START, CHANNEL])
                except Ended:
                    say(source.kept)
                    source.settle()
                    return
                if here:
                    if mark not in _ENDS:
                        source.rewind(place)
                    elif keep:
                        found.text(mark)
                    source.settle()
                    return
                source.rewind(place)
                source.skip()
            else:
                source.now(_IN_HEADER)
            say(source.kept)
            source.settle()

    def _as_text(self) -> Reading[None]:
        """Reads a letter, and what follows up to the next mark, as text."""
        source = self._source
        if (yield from source.peek()):
            source.skip()
        source.now(_IN_HEADER)
        self._found.text(source.kept)
        source.settle()
