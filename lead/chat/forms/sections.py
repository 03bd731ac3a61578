"""Calls that are a name, a mark, and arguments as JSON.

Mistral: `[TOOL_CALLS]f[ARGS]{}`. Older ones: `[TOOL_CALLS][{"name": "f", "arguments": {}}]`.
Kimi K2, in a section: `<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{}<|tool_call_end|>`.
DeepSeek V3.1, in a section: `<｜tool▁call▁begin｜>f<｜tool▁sep｜>{}<｜tool▁call▁end｜>`.
"""

from __future__ import annotations

import re

from lead.chat.forms import jsons, names
from lead.chat.forms.found import Found, Reader
from lead.chat.forms.literals import JSON, value
from lead.chat.forms.source import CutCall, Ended, NoCall, Reading, Source

TOOL_CALLS, CALL_ID, ARGS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
KIMI_SECTION, KIMI_CALL = "<|tool_calls_section_begin|>", "<|tool_call_begin|>"
KIMI_ARGUMENTS, KIMI_END = "<|tool_call_argument_begin|>", "<|tool_call_end|>"
KIMI_SECTION_END = "<|tool_calls_section_end|>"
DEEPSEEK_SECTION, DEEPSEEK_CALL = "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"
DEEPSEEK_NAME, DEEPSEEK_END, DEEPSEEK_SECTION_END = "<｜tool▁sep｜>", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"

_ID = re.compile(r"\w*+")
_BETWEEN = re.compile(r"[\s;,]*+")
_WORD = re.compile(r"[\w.-]*+")


def arguments(source: Source, found: Found, name: str, id: str = "") -> Reading[None]:
    """Reads arguments as JSON, and adds the call."""
    place = source.place
    try:
        if (yield from source.more()) != "{":
            raise NoCall
        given = yield from value(source, JSON)
    except Ended:
        raise CutCall(name, source.since(place)) from None
    found.call(name, given, id)


def mistral(source: Source, found: Found) -> Reading[None]:
    """Reads calls after `[TOOL_CALLS]`. Each one is certain at its end."""
    while True:
        yield from source.spaces()
        if (yield from source.more()) in "[{":
            yield from jsons.calls(source, found, each=True)
        else:
            yield from named(source, found)
        names.certain(source, found)
        yield from source.run(_BETWEEN)
        try:
            here, _ = yield from source.one_of([TOOL_CALLS])
        except Ended:
            source.settle()
            return
        if not here:
            source.rewind()
            return


def named(source: Source, found: Found) -> Reading[None]:
    """Reads one call of Mistral's newer form."""
    name = yield from names.tool(source, found)
    id = ""
    if (yield from source.more()) == "[":
        _, mark = yield from source.one_of([CALL_ID, ARGS])
        if mark == CALL_ID:
            id = yield from source.run(_ID)
            yield from source.expect(ARGS)
        elif mark != ARGS:
            raise NoCall
        yield from _cut_after(source, name)
    yield from source.spaces()
    yield from arguments(source, found, name, id)


def bare(source: Source, found: Found) -> Reading[None]:
    """Reads calls of that form where the marks are no text. Unless a call must be, a line that goes on after them is
    text, for it may speak of a tool."""
    while True:
        yield from named(source, found)
        end = source.place
        between = yield from source.run(_BETWEEN)
        letter = yield from source.peek()
        if found.must_call or letter in ("", "[", "<") or "\n" in between:
            source.rewind(end)
            names.certain(source, found)
            yield from source.run(_BETWEEN)
        elif not letter.isalpha():
            raise NoCall
        if not letter.isalpha():
            source.rewind()
            return


def _cut_after(source: Source, name: str) -> Reading[None]:
    """Reads white space after a mark. Where the answer ends, the call has a name and no arguments."""
    yield from source.spaces()
    if not (yield from source.peek()):
        raise CutCall(name)


def kimi(in_section: bool) -> Reader:
    """A reader of what follows the mark of a section, or of a call."""

    def read(source: Source, found: Found) -> Reading[None]:
        mark = (yield from names.close(source, [KIMI_CALL])) if in_section else KIMI_CALL
        if not mark:
            raise Ended
        while mark == KIMI_CALL:
            yield from source.spaces()
            name, id = yield from names.numbered(source, found)
            yield from source.spaces()
            yield from source.expect(KIMI_ARGUMENTS)
            yield from _cut_after(source, name)
            yield from arguments(source, found, name, id)
            yield from names.close(source, [KIMI_END])
            names.certain(source, found)
            mark = yield from _follows(source, KIMI_CALL, KIMI_SECTION_END)

    return read


def deepseek(in_section: bool) -> Reader:
    """The same for DeepSeek V3.1, and for V3, which has a word before the name and a fence around the arguments."""

    def read(source: Source, found: Found) -> Reading[None]:
        mark = DEEPSEEK_CALL
        if in_section:
            yield from source.spaces()
            if (yield from source.peek()) in ("<", ""):
                mark = yield from names.close(source, [DEEPSEEK_CALL])
            # Models forget the mark of the first call.
        if not mark:
            raise Ended
        while mark == DEEPSEEK_CALL:
            yield from _deepseek_call(source, found)
            yield from names.close(source, [DEEPSEEK_END])
            names.certain(source, found)
            mark = yield from _follows(source, DEEPSEEK_CALL, DEEPSEEK_SECTION_END)

    return read


def _deepseek_call(source: Source, found: Found) -> Reading[None]:
    yield from source.spaces()
    name = yield from source.run(_WORD)
    yield from source.expect(DEEPSEEK_NAME)
    yield from source.spaces()
    if (yield from source.peek()) in ("{", ""):
        found.check(name)
        yield from arguments(source, found, name)
        return
    name, fenced = (yield from names.tool(source, found)), False
    try:
        yield from source.spaces()
        if (yield from source.more()) == "`":
            yield from source.expect("```")
            yield from source.run(_WORD)
            yield from source.spaces()
            fenced = True
        if (yield from source.more()) != "{":
            raise NoCall
    except Ended:
        raise CutCall(name) from None
    yield from arguments(source, found, name)
    if fenced:
        yield from names.close(source, ["```"])


def _follows(source: Source, another: str, end: str) -> Reading[str]:
    """After a call. Returns the mark of the next call; another string if none follows."""
    yield from source.spaces()
    try:
        here, mark = yield from source.one_of([another, end])
    except Ended:
        source.settle()
        return ""
    if not here:
        source.rewind()
        return ""
    if mark == end:
        source.settle()
    return mark
