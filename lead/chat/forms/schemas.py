"""Schemas of tools' arguments, so that a grammar of them makes up no keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from duo.sampling.plain_schema import referred
from lead.chat.conversation import Tool

NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}
"""OpenAI's documentation and most clients write this for no parameters. In JSON Schema it is any object."""

_ADMITS = ("additionalProperties", "patternProperties", "unevaluatedProperties", "propertyNames")
"""Keywords by which a schema says that there may be other keys, or that there may not."""
_TOGETHER = ("allOf", "anyOf", "oneOf", "if", "then", "else", "not", "dependentSchemas", "$ref", "$dynamicRef")
"""Keywords beside `properties` that may name further keys of the same object."""
_NOTHING = frozenset({"description", "title", "examples", "example", "default", "$comment", "deprecated"})
"""Keywords that demand nothing. Agents' descriptions are longer than all the rest."""
_HINTS = _NOTHING | {"$defs", "definitions"}
"""Keywords that demand nothing beside a reference."""
_SCHEMA = ("additionalProperties", "items", "contains", "unevaluatedItems", "additionalItems")
_LIST = ("prefixItems", "items", "anyOf", "oneOf")
_NAMED = ("properties", "patternProperties", "$defs", "definitions")


def takes_objects(schema: Mapping[str, Any]) -> bool:
    """Whether a value of the schema may be an object, as the arguments of a call are."""
    given = schema.get("type") or "object"
    return "object" in (given if isinstance(given, list) else [given])


def arguments_schema(tool: Tool) -> Mapping[str, Any]:
    """The schema that the arguments of a call must follow. Keys that the tool's does not name are none of them, unless
    it admits others in so many words."""
    given = {**(tool.parameters or NO_PARAMETERS), "type": "object"}
    try:
        closed: Mapping[str, Any] = _closed(given, frozenset(_references(given, given, False, set())))
        return closed
    except RecursionError:
        return given  # what makes a grammar of it refuses it


def _closed(schema: Any, shared: frozenset[str], at: str = "#", open: bool = False) -> Any:
    """The schema with closed objects, and without descriptions.

    shared: references to schemas that describe a part of an object. open: this schema describes a part of one.
    """
    if not isinstance(schema, Mapping):
        return schema
    closed = {key: value for key, value in schema.items() if key not in _NOTHING}
    open = open or at in shared
    whole = _is_whole(schema)
    for key, value in list(closed.items()):
        if key in _NAMED and isinstance(value, Mapping):
            closed[key] = {name: _closed(inner, shared, f"{at}/{key}/{_step(name)}") for name, inner in value.items()}
        elif key in _LIST and isinstance(value, list):
            part = key in ("anyOf", "oneOf") and ("properties" in schema or open)
            closed[key] = [_closed(inner, shared, f"{at}/{key}/{i}", part) for i, inner in enumerate(value)]
        elif key in _SCHEMA:
            closed[key] = _closed(value, shared, f"{at}/{key}")
    if whole and not open:
        required = schema.get("required")
        missing = [key for key in required if isinstance(key, str)] if isinstance(required, list) else []
        properties = closed["properties"]
        closed["properties"] = {**properties, **{key: {} for key in missing if key not in properties}}
        closed["additionalProperties"] = False
    return closed


def _is_whole(schema: Mapping[str, Any]) -> bool:
    """Whether the schema names all keys of an object, and does not say whether there are others."""
    if not isinstance(schema.get("properties"), Mapping) or any(key in schema for key in _ADMITS):
        return False
    return not any(_names_keys(schema[key]) for key in _TOGETHER if key in schema)


def _names_keys(value: Any) -> bool:
    """Whether there is anything in this part of a schema but lists of required keys."""
    if isinstance(value, list):
        return any(map(_names_keys, value))
    if isinstance(value, Mapping):
        return not value.keys() <= {"required", "title", "description"}
    return True


def _references(value: Any, root: Any, part: bool, seen: set[tuple[int, bool]]) -> Iterator[str]:
    """References at places where another schema describes the same object, and in what they refer to. `part`: this is
    such a place."""
    if isinstance(value, list):
        for inner in value:
            yield from _references(inner, root, part, seen)
    if not isinstance(value, Mapping) or (id(value), part) in seen:
        return
    seen.add((id(value), part))
    reference = value.get("$ref")
    if isinstance(reference, str) and (part or value.keys() - _HINTS - {"$ref"}):
        yield reference
        yield from _references(referred(reference, root), root, True, seen)
    for key, inner in value.items():
        together = key == "allOf" or (key in _TOGETHER and ("properties" in value or part))
        yield from _references(inner, root, together, seen)


def moved(schema: Any, root: str) -> Any:
    """A schema that stands at another place. Its references start there."""
    if isinstance(schema, list):
        return [moved(inner, root) for inner in schema]
    if not isinstance(schema, Mapping):
        return schema
    found = {key: moved(value, root) for key, value in schema.items()}
    if isinstance(reference := schema.get("$ref"), str) and reference.startswith("#"):
        found["$ref"] = root + reference[1:]
    return found


def _step(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
