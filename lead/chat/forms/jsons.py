"""Calls that are JSON: an object with the name of a tool and its arguments.

After a mark, the object may also be written as Python writes it, as small models do.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from pydantic_core import from_json

from lead.chat.forms import names
from lead.chat.forms.found import Found
from lead.chat.forms.literals import JSON, PYTHON, spaces, string, value
from lead.chat.forms.source import CutCall, Ended, NoCall, Reading, Source

_ARGUMENTS = ("arguments", "parameters")
_NAMES = ("name", "function", "tool_name")
_CALL_KEYS = frozenset({"id", "tool_call_id", "type", *_NAMES, *_ARGUMENTS})


class _Begun:
    """A call that is being read."""

    def __init__(self) -> None:
        self.name = ""
        self.arguments = -1
        """The place where they begin."""
        self.other = False
        """Whether there are keys that no call has."""
        self.dialect = JSON


def call(source: Source, found: Found, bare: bool = False) -> Reading[None]:
    """Reads a call, whose brace is next.

    bare: no mark stands before it. Then only its keys tell it from other JSON, so it must have the name and the
    arguments of a call, and nothing else.
    """
    begun = _Begun()
    try:
        written = yield from _object(source, found, begun, bare)
    except Ended:
        if begun.other or (bare and not (begun.name or found.must_call)):
            raise NoCall from None
        told = begun.arguments >= 0 and begun.dialect is JSON
        arguments = source.since(begun.arguments) if told else ""
        raise CutCall(begun.name, _as_far(arguments) if begun.name else "") from None
    function = _function(written)
    if bare and not any(key in function for key in _ARGUMENTS):
        raise NoCall
    name, arguments_ = function.get("name"), function.get("arguments", function.get("parameters"))
    id = written.get("id")
    if not isinstance(name, str):
        raise NoCall
    found.call(name, _arguments(arguments_), id if isinstance(id, str) and _is_id(id) else "")


def calls(source: Source, found: Found, bare: bool = False, each: bool = False) -> Reading[None]:
    """Reads a call, or a list of calls, of which the first letter is next. `each`: each one is certain at its end."""
    if (yield from source.more()) == "[":
        source.skip()
        yield from spaces(source)
        yield from members(source, found, bare, each)
    else:
        yield from call(source, found, bare)


def members(source: Source, found: Found, bare: bool = False, each: bool = False) -> Reading[None]:
    """Reads the rest of a list of calls. Where the answer ends between two of them, they are whole."""
    while True:
        yield from call(source, found, bare)
        if each:
            names.certain(source, found)
        yield from spaces(source)
        letter = yield from source.peek()
        if letter:
            source.skip()
        if letter not in ("", "]", ","):
            raise NoCall
        if letter != ",":
            return
        yield from spaces(source)
        if not (yield from source.peek()):
            return


def _object(source: Source, found: Found, begun: _Begun, bare: bool, inner: bool = False) -> Reading[dict[str, Any]]:
    """Reads the object. `inner`: it is the function in a call."""
    members: dict[str, Any] = {}
    yield from source.expect("{")
    yield from spaces(source)
    if not bare and (yield from source.peek()) == "'":
        begun.dialect = PYTHON
    while (yield from source.peek()) != "}":
        key = yield from string(source, begun.dialect)
        if key not in _CALL_KEYS:
            begun.other = True
            if bare:
                raise NoCall
        yield from spaces(source)
        yield from source.expect(":")
        yield from spaces(source)
        members[key] = yield from _member(source, found, begun, key, bare, inner)
        yield from spaces(source)
        if (yield from source.peek()) != ",":
            break
        source.skip()
        yield from spaces(source)
        if (yield from source.peek()) == "}":
            raise NoCall
    yield from source.expect("}")
    return members


def _member(source: Source, found: Found, begun: _Begun, key: str, bare: bool, inner: bool) -> Reading[Any]:
    letter = yield from source.more()
    if key == "function" and letter == "{" and not inner:
        return (yield from _object(source, found, begun, bare, inner=True))
    if key in _NAMES:
        name = yield from _name(source, found, begun.dialect.quotes)
        begun.name = name
        return name
    if key in _ARGUMENTS and begun.arguments < 0:
        begun.arguments = source.place
        if letter not in '{"n' and (begun.dialect is JSON or letter not in "'N"):
            raise NoCall
    read = yield from value(source, begun.dialect)
    if bare and key == "type" and read != "function":
        raise NoCall
    return read


def _name(source: Source, found: Found, quotes: Collection[str]) -> Reading[str]:
    """Reads the name of a tool. Another string is no call as soon as it differs from all of them."""
    if (quote := (yield from source.take())) not in quotes:
        raise NoCall
    name = ""
    while (letter := (yield from source.take())) != quote:
        name += letter
        found.begins(name)
    found.check(name)
    return name


def _function(written: Mapping[str, Any]) -> Mapping[str, Any]:
    """Name and arguments of a call, in whichever way they are written."""
    match written:
        case {"function": dict(function)}:
            return function
        case {"function": str(name)}:
            return {"name": name, **written}
        case {"tool_name": str(name)}:
            return {"name": name, **written}
    return written


def _arguments(given: Any) -> Mapping[str, Any]:
    """The arguments of a call. Raises NoCall if they are no object."""
    if isinstance(given, str):
        try:
            given = json.loads(given or "null")
        except (ValueError, RecursionError):
            raise NoCall from None
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise NoCall
    return given


def _is_id(id: str) -> bool:
    return id.isalnum() and id.isascii() and len(id) <= 64


def _as_far(arguments: str) -> str:
    """The arguments at the beginning of a text, which may end within them."""
    if arguments.startswith('"'):
        try:
            return str(from_json(arguments, allow_partial="trailing-strings"))
        except ValueError:  # it is cut, and no JSON before that
            return ""
    if not arguments.startswith("{"):
        return ""
    try:
        return arguments[: json.JSONDecoder().raw_decode(arguments)[1]]
    except (ValueError, RecursionError):
        return arguments
