"""Calls that no mark begins: JSON and Python's form at the beginning of a line, and the same in a fence."""

from __future__ import annotations

import re

from lead.chat.forms import jsons, names, pythonic
from lead.chat.forms.found import Found, Reader
from lead.chat.forms.source import Ended, NoCall, Reading, Source

FENCES = ("```", "~~~")
_LANGUAGES = ("json", "tool_code", "tool_call", "tool_calls", "python")
_LANGUAGE = re.compile(r"[A-Za-z_]*+")
_LINE = re.compile(r"[ \t\r]*+")
_BETWEEN = re.compile(r"[\s;]*+")


def line(python: bool) -> Reader:
    """A reader of calls from a brace or a bracket on. `python`: in Python's form, too."""

    def read(source: Source, found: Found) -> Reading[None]:
        while True:
            yield from _calls(source, found, python)
            names.certain(source, found)
            yield from source.run(_BETWEEN)
            if (yield from source.peek()) != "{":
                source.rewind()
                return

    return read


def fence(python: bool) -> Reader:
    """A reader of a fence that holds calls and nothing else."""

    def read(source: Source, found: Found) -> Reading[None]:
        here, fence = yield from source.one_of(FENCES)
        if not here:
            raise NoCall
        language = (yield from source.run(_LANGUAGE)).lower()
        yield from source.more()
        if language and language not in _LANGUAGES:
            raise NoCall
        yield from source.run(_LINE)
        yield from source.expect("\n")
        yield from source.spaces()
        while (letter := (yield from source.more())) != fence[0]:
            if letter in "{[":
                yield from _calls(source, found, python or language == "tool_code")
            elif language == "tool_code":
                yield from pythonic.lines(source, found)
            else:
                raise NoCall
            yield from source.spaces()
            if not (yield from source.peek()):
                return
        try:
            yield from source.expect(fence)
        except Ended:
            return

    return read


def action(source: Source, found: Found) -> Reading[None]:
    """Reads the fence after Command R's `Action:`."""
    yield from source.spaces()
    yield from fence(python=False)(source, found)


def _calls(source: Source, found: Found, python: bool) -> Reading[None]:
    if (yield from source.more()) == "{":
        yield from jsons.call(source, found, bare=True)
        return
    source.skip()
    yield from source.spaces()
    if (yield from source.more()) == "{":
        yield from jsons.members(source, found, bare=True)
    elif python:
        yield from pythonic.several(source, found)
    else:
        raise NoCall


def tagged(source: Source, found: Found) -> Reading[None]:
    """Reads calls after Llama's `<|python_tag|>`: JSON, or Python's form. Llama 3.1 calls tools it was trained with so:
    `brave_search.call(query="x")`."""
    yield from source.spaces()
    if (yield from source.more()) not in "{[":
        yield from pythonic.lines(source, found, method=".call")
        return
    while True:
        yield from jsons.calls(source, found)
        names.certain(source, found)
        yield from source.run(_BETWEEN)
        if (yield from source.peek()) not in ("{", "["):
            source.rewind()
            return
