"""Values that a model writes as bare text, such as Qwen3-Coder's. The tool's schema says what they are."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

_DEPTH = 8
"""References and alternatives that are followed."""
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
    return frozenset(_types(schema, schema, 0))


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


def _types(schema: object, root: Mapping[str, Any], depth: int) -> Iterator[str]:
    if not isinstance(schema, Mapping) or depth > _DEPTH:
        return
    given = schema.get("type")
    if isinstance(given, str):
        yield given
    elif isinstance(given, list):
        yield from (each for each in given if isinstance(each, str))
    elif "enum" in schema or "const" in schema:
        values = schema["enum"] if isinstance(schema.get("enum"), list) else [schema.get("const")]
        yield from (_NAMES[type(each)] for each in values if type(each) in _NAMES)
    elif isinstance(reference := schema.get("$ref"), str):
        yield from _types(referred(reference, root), root, depth + 1)
    else:
        for key in ("anyOf", "oneOf", "allOf"):
            for each in schema[key] if isinstance(schema.get(key), list) else ():
                yield from _types(each, root, depth + 1)


def referred(reference: str, root: Mapping[str, Any]) -> object:
    """What a reference such as `#/$defs/x` stands for; None if it is of another kind."""
    at: object = root
    if not reference.startswith("#/"):
        return None
    for step in reference[2:].split("/"):
        at = at.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(at, Mapping) else None
    return at
