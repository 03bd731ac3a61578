"""Names of tools and closing marks, which calls of every form have."""

from __future__ import annotations

import re
from collections.abc import Collection

from lead.chat.forms.found import Found
from lead.chat.forms.source import CutCall, Ended, NoCall, Reading, Source

_LETTERS = re.compile(r"[\w.-]")
_DOTTED = re.compile(r"[\w.:-]*+")


def tool(source: Source, found: Found, also: str = "", method: str = "") -> Reading[str]:
    """Reads the name of a tool. Raises NoCall as soon as it is none, and CutCall where the answer ends.

    also: another name that is allowed here. method: what may stand behind a name, such as `.call`.
    """
    name = ""
    try:
        while _LETTERS.match((yield from source.more())):
            name += yield from source.take()
            if not (also.startswith(name) or _with_method(name, found, method)):
                found.begins(name)
    except Ended:
        raise CutCall from None
    if name not in found.tools and method and name.removesuffix(method) in found.tools:
        return name.removesuffix(method)
    if not name or name != also:
        found.check(name)
    return name


def _with_method(name: str, found: Found, method: str) -> bool:
    """Whether this is the name of a tool and the beginning of the method."""
    ends = (name[-length:] for length in range(1, min(len(method), len(name)) + 1))
    return any(method.startswith(end) and name.removesuffix(end) in found.tools for end in ends)


def numbered(source: Source, found: Found) -> Reading[tuple[str, str]]:
    """Reads Kimi's name and id of a call in one, such as `functions.f:0`. Returns the name and the id."""
    id = yield from source.run(_DOTTED)
    yield from source.more()
    plain = re.sub(r":\d+$", "", id)
    for name in (plain.removeprefix("functions."), plain, id):
        if name in found.tools:
            return name, id if plain != id else ""
    raise NoCall


def close(source: Source, marks: Collection[str]) -> Reading[str]:
    """Reads white space and one of these marks. Returns the mark; empty where the answer ends before it or within it.

    Raises NoCall if something else stands here.
    """
    yield from source.spaces()
    if not (yield from source.peek()):
        return ""
    try:
        here, mark = yield from source.one_of(marks)
    except Ended:
        return ""
    if not here:
        raise NoCall
    return mark


def certain(source: Source, found: Found) -> None:
    """What was read is a call, whatever follows."""
    source.settle()
    found.settle()
