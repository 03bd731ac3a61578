"""Which values a schema allows, as far as it says so in a simple way."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from duo.sampling.plain_schema import referred

MAX_WORK = 200_000
"""Schemas and listed values that are looked at. A schema that takes more says nothing here."""
_TYPES: Mapping[type, str] = {
    bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object", type(None): "null",
}  # fmt: skip
_ALL = frozenset(_TYPES.values())
_WIDER = {"number": frozenset({"number", "integer"})}


def type_of(value: object) -> str:
    """The type of a value, as a schema names it. An integer is one however it is written."""
    return "integer" if isinstance(value, float) and value.is_integer() else _TYPES[type(value)]


class Allowed(NamedTuple):
    """Values that a schema allows: those that it lists, by their JSON, and all of some types."""

    listed: Mapping[str, Any]
    free: frozenset[str]

    @property
    def types(self) -> frozenset[str]:
        """The types of these values. A number may be an integer."""
        return self.free | frozenset(map(type_of, self.listed.values()))

    @property
    def strings(self) -> Sequence[str] | None:
        """The strings. None if any string is allowed."""
        if "string" in self.free:
            return None
        return [value for value in self.listed.values() if isinstance(value, str)]

    def takes(self, value: object) -> bool:
        """Whether the value is one of these."""
        return type_of(value) in self.free or _json(value) in self.listed


ANYTHING = Allowed({}, _ALL)
NOTHING = Allowed({}, frozenset())


def allowed(schema: Mapping[str, Any]) -> Allowed:
    """The values that the schema allows. It may allow fewer: only types, lists of values, references and combinations
    are looked at."""
    try:
        return _Values(schema).of(schema) or ANYTHING
    except (_TooMuch, RecursionError):
        return ANYTHING


class _TooMuch(Exception):  # noqa: N818 - it is an answer, not an error
    """The schema takes too much work."""


class _Values:
    """Looks at each schema once, for they may refer to each other many times. `root`: where references begin."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._known: dict[int, Allowed | None] = {}
        self._left = MAX_WORK

    def of(self, schema: object) -> Allowed | None:
        """What a schema allows. None while it is being looked at: within itself, it says nothing new."""
        if not isinstance(schema, Mapping):
            return NOTHING if schema is False else ANYTHING
        if id(schema) in self._known:
            return self._known[id(schema)]
        self._known[id(schema)] = None
        parts: list[Allowed | None] = list(_own(schema))
        if isinstance(reference := schema.get("$ref"), str):
            parts.append(self.of(referred(reference, self._root)))
        for each in _list(schema, "allOf"):
            parts.append(self.of(each))
        for key in ("anyOf", "oneOf"):
            if alternatives := _list(schema, key):
                either: Allowed | None = None
                for each in alternatives:
                    either = self._either(either, self.of(each))
                parts.append(either)
        found = None if parts else ANYTHING
        for part in parts:
            found = self._both(found, part)
        self._known[id(schema)] = found
        return found

    def _both(self, one: Allowed | None, other: Allowed | None) -> Allowed | None:
        """What both allow."""
        if one is None or other is None:
            return one or other
        self._spend(one, other)
        listed = {key: value for key, value in one.listed.items() if other.takes(value)}
        listed |= {key: value for key, value in other.listed.items() if one.takes(value)}
        return Allowed(listed, one.free & other.free)

    def _either(self, one: Allowed | None, other: Allowed | None) -> Allowed | None:
        """What one of them allows."""
        if one is None or other is None:
            return one or other
        self._spend(one, other)
        return Allowed({**one.listed, **other.listed}, one.free | other.free)

    def _spend(self, *parts: Allowed) -> None:
        self._left -= 1 + sum(len(part.listed) for part in parts)
        if self._left < 0:
            raise _TooMuch


def _own(schema: Mapping[str, Any]) -> Iterator[Allowed]:
    """What its own keywords allow."""
    given = schema.get("type")
    types = [each for each in (given if isinstance(given, list) else [given]) if isinstance(each, str)]
    if types:
        yield Allowed({}, frozenset().union(*(_WIDER.get(each, {each}) for each in types)))
    if values := _list(schema, "enum"):
        yield Allowed({_json(each): each for each in values}, frozenset())
    if "const" in schema:
        yield Allowed({_json(schema["const"]): schema["const"]}, frozenset())


def _list(schema: Mapping[str, Any], key: str) -> Sequence[Any]:
    value = schema.get(key)
    return value if isinstance(value, list) else ()


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True)
