"""Calls as Python writes them, and Gemma's, which are similar.

[f(x="y"), g(a=1)]                                          Llama 3.2 and 4, LFM2
[f(**{"a.b": 1})]                                           the same with a key that is no keyword
```tool_code (a line) f(x="y") (a line) ```                 Gemma 3
<|tool_call>call:f{x:<|"|>y<|"|>}<tool_call|>               Gemma 4
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lead.chat.forms import names
from lead.chat.forms.found import Found, Reader
from lead.chat.forms.literals import GEMMA, PYTHON, keyword, members, pairs, spaces
from lead.chat.forms.source import CutCall, Ended, NoCall, Reading, Source


def several(source: Source, found: Found) -> Reading[None]:
    """Reads calls after the bracket of a list, and its end."""
    while True:
        yield from spaces(source)
        yield from call(source, found)
        yield from spaces(source)
        letter = yield from source.peek()
        if not letter:
            return  # the last call is whole
        source.skip()
        if letter == "]":
            return
        if letter != ",":
            raise NoCall
        yield from spaces(source)
        if (yield from source.peek()) in ("", "]"):
            if (yield from source.peek()):
                source.skip()
            return


def listed(end: str) -> Reader:
    """A reader of a list of calls that a mark ends, or of calls without a list."""

    def read(source: Source, found: Found) -> Reading[None]:
        yield from source.spaces()
        if (yield from source.more()) == "[":
            source.skip()
            yield from several(source, found)
        else:
            yield from lines(source, found)
        yield from names.close(source, [end])

    return read


def lines(source: Source, found: Found, method: str = "") -> Reading[None]:
    """Reads calls after each other. There may be `print()` around one, and `;` after it.

    method: what may stand behind a name, such as `.call`.
    """
    while True:
        name = yield from names.tool(source, found, also="print", method=method)
        if name not in found.tools:
            yield from source.expect("(")
            yield from call(source, found)
            yield from source.expect(")")
        else:
            yield from call(source, found, name)
        yield from source.spaces()
        if (yield from source.peek()) == ";":
            source.skip()
            yield from source.spaces()
        letter = yield from source.peek()
        if not (letter.isalpha() or letter == "_"):
            return


def call(source: Source, found: Found, name: str = "") -> Reading[None]:
    """Reads a call, of which the name may have been read."""
    name = name or (yield from names.tool(source, found))
    arguments: dict[str, Any] = {}
    try:
        yield from source.expect("(")
        yield from pairs(source, PYTHON, ")", lambda: _argument(source, found, name, arguments), arguments)
    except Ended:
        raise CutCall(name, json.dumps(arguments, ensure_ascii=False)[:-1]) from None
    found.texts(name, arguments)


def _argument(source: Source, found: Found, name: str, arguments: dict[str, Any]) -> Reading[str | None]:
    """Reads `key=`, or all of `**{"key": value}`, or finds the key of a value without one by its number."""
    if (yield from source.more()) == "*":
        yield from source.expect("**")
        yield from spaces(source)
        yield from members(source, PYTHON, arguments)
        return None
    if key := (yield from keyword(source)):
        yield from spaces(source)
        yield from source.expect("=")
        return key
    properties = (found.tools[name].parameters or {}).get("properties")
    keys = list(properties) if isinstance(properties, Mapping) else []
    if (number := len(arguments)) >= len(keys):
        raise NoCall
    return str(keys[number])


def gemma(end: str) -> Reader:
    """A reader of what follows Gemma's `<|tool_call>`."""

    def read(source: Source, found: Found) -> Reading[None]:
        yield from source.expect("call:")
        name = yield from names.tool(source, found)
        arguments: dict[str, Any] = {}
        try:
            yield from members(source, GEMMA, arguments)
        except Ended:
            raise CutCall(name, json.dumps(arguments, ensure_ascii=False)[:-1]) from None
        yield from names.close(source, [end])
        found.texts(name, arguments)

    return read
