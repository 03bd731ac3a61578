"""Values that a model writes as bare text, such as Qwen3-Coder's. The tool's schema says what they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from duo.sampling.plain_schema import referred

_WORDS = {"True": True, "False": False, "None": None}
"""Python's spelling, which some templates use."""
_NAMES: Mapping[type, str] = {
    bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object", type(None): "null",
}  # fmt: skip


def schema_of(parameters: Mapping[str, Any] | None, name: str) -> Mapping[str, Any]:
    """The schema of one parameter. It can be used alone: it has the definitions that it refers to."""
    root = parameters or {}
    properties = root.get("properties")
    found = properties.get(name) if isinstance(properties, Mapping) else None
    if not isinstance(found, Mapping):
        return {}
    definitions = {key: root[key] for key in ("$defs", "definitions") if key in root}
    return {**definitions, **found} if definitions else found


def types_of(schema: Mapping[str, Any]) -> frozenset[str]:
    """The types that the schema allows, as far as it says so in a simple way; empty if it does not say."""
    types, seen = set[str](), set[int]()
    waiting: list[object] = [schema]
    while waiting:
        each = waiting.pop()
        if not isinstance(each, Mapping) or id(each) in seen:
            continue
        seen.add(id(each))  # schemas may refer to each other many times
        given = each.get("type")
        if isinstance(given, str):
            types.add(given)
        elif isinstance(given, list):
            types.update(kind for kind in given if isinstance(kind, str))
        elif "enum" in each or "const" in each:
            values = each["enum"] if isinstance(each.get("enum"), list) else [each.get("const")]
            types.update(_NAMES[type(value)] for value in values if type(value) in _NAMES)
        elif isinstance(reference := each.get("$ref"), str):
            waiting.append(referred(reference, schema))
        else:
            for key in ("anyOf", "oneOf", "allOf"):
                waiting += each[key] if isinstance(each.get(key), list) else ()
    return frozenset(types)


def typed(value: Any, schema: Mapping[str, Any]) -> Any:
    """The value that a text stands for, by its schema. The text itself if it stands for none. Other values stay."""
    if not isinstance(value, str):
        return value
    types = types_of(schema)
    if types == {"string"}:
        return value
    bare = value.strip()
    try:
        meant = _WORDS[bare] if bare in _WORDS else json.loads(bare)
        json.dumps(meant, allow_nan=False)
    except (ValueError, RecursionError):
        return value
    kind = _NAMES[type(meant)]
    if kind == "string":
        return value if not types or "string" in types else meant
    if not types or kind in types or (kind in ("integer", "number") and types & {"number", "integer"}):
        return meant
    return value


def told(text: str, schema: Mapping[str, Any], string: bool) -> Any:
    """The value of a text of which the model tells whether it is a string. Otherwise it is JSON."""
    if string and may_be_text(schema):
        return text
    try:
        meant = json.loads(text) if not string else None
    except (ValueError, RecursionError):
        meant = None
    return meant if isinstance(meant, str) else typed(text, schema)


def may_be_text(schema: Mapping[str, Any]) -> bool:
    """Whether the schema allows a string."""
    types = types_of(schema)
    return not types or "string" in types
