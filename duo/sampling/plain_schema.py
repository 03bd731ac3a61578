"""JSON schemas in the keywords that llguidance knows.

llguidance refuses a schema for any keyword that it does not know, even where that keyword demands nothing. Some
programs write such keywords everywhere: zod puts `propertyNames` into each record. They are dropped here, or said in
other words. What demands something and has no other words stays, and llguidance refuses it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from duo.errors import RequestError

Schema = Mapping[str, Any]

PARAM = "response_format"

MAX_NAME = 256
"""The longest names of properties that a schema may count."""

_FORMATS = (
    "date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "unknown", "uri", "uuid",
)  # fmt: skip
"""String formats that llguidance knows."""

_SCHEMAS = frozenset({"additionalProperties", "allOf", "anyOf", "items", "oneOf", "prefixItems"})
"""Keywords whose value is a schema, or a list of schemas."""

_OF_SCHEMAS = frozenset({"$defs", "definitions", "patternProperties", "properties"})
"""Keywords whose value has schemas by name."""

_ANNOTATIONS = frozenset(
    {
        "$comment", "$id", "$schema", "default", "deprecated", "description", "examples", "id", "readOnly", "title",
        "writeOnly",
    }
)  # fmt: skip
"""Keywords that demand nothing of a value."""

_IN_PLACE = frozenset(
    {
        "$dynamicRef", "$recursiveRef", "$ref", "allOf", "anyOf", "contains", "dependencies", "dependentSchemas", "if",
        "not", "oneOf",
    }
)  # fmt: skip
"""Keywords that bring further schemas for the same value."""

_MAX_STEPS = 32
"""References that lead to a schema for names."""


def referred(reference: str, root: Schema) -> object:
    """What a reference such as `#/$defs/x` stands for within this document; None if it is of another kind."""
    at: object = root
    if not reference.startswith("#/"):
        return None
    for step in reference[2:].split("/"):
        at = at.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(at, Mapping) else None
    return at


def plain(schema: Schema) -> dict[str, Any]:
    """The same schema in keywords that llguidance knows, as far as there are any. Raises RequestError."""
    return _Plain(schema).of_object(schema)


class _Plain:
    def __init__(self, root: Schema) -> None:
        self._root = root

    def of(self, schema: Any) -> Any:
        return self.of_object(schema) if isinstance(schema, Mapping) else schema

    def of_object(self, schema: Schema) -> dict[str, Any]:
        given = _in_other_words(schema)
        if "propertyNames" in given:
            given = self._without_names(given)
        result: dict[str, Any] = {}
        for key, value in given.items():
            if _demands_nothing(key, value, given):
                continue
            if key in _OF_SCHEMAS and isinstance(value, Mapping):
                value = {name: self.of(inner) for name, inner in value.items()}
            elif key in _SCHEMAS:
                value = [self.of(inner) for inner in value] if isinstance(value, list) else self.of(value)
            result[key] = value
        return result

    def _without_names(self, schema: Schema) -> dict[str, Any]:
        """The schema with `propertyNames` in other words."""
        rest = {key: value for key, value in schema.items() if key != "propertyNames"}
        names = self._followed(schema["propertyNames"])
        if names is True:
            return rest
        asked = {key: value for key, value in names.items() if key not in _ANNOTATIONS}
        types = asked.pop("type", "string")
        strings = "string" in (types if isinstance(types, list) else [types])
        if "pattern" in asked or asked.get("format") not in _FORMATS:
            asked.pop("format", None)  # an annotation, as elsewhere
        if asked.get("minLength") == 0:
            del asked["minLength"]
        if strings and not asked:
            return rest
        properties, others = rest.get("properties") or {}, rest.get("additionalProperties", True)
        if strings and not rest.get("patternProperties") and isinstance(properties, Mapping):
            allowed = _listed(asked)
            if allowed is not None and set(properties) <= set(allowed):
                found = {name: properties.get(name, others) for name in allowed}
                return {**rest, "properties": found, "additionalProperties": False}
            pattern = _pattern(asked)
            if pattern is not None and not properties:
                return {**rest, "patternProperties": {pattern: others}, "additionalProperties": False}
        why = "only an enum, a pattern or lengths can be followed, without other properties beside them"
        raise RequestError(f"the JSON schema has propertyNames: {why}", PARAM)

    def _followed(self, names: Any) -> Any:
        """The schema that a reference within this document leads to. True, if any name will do."""
        for _ in range(_MAX_STEPS):
            if not isinstance(names, Mapping):
                break
            reference = names.get("$ref")
            if not isinstance(reference, str) or not reference.startswith("#/"):
                return names
            names = referred(reference, self._root)
        if names is True:
            return True
        raise RequestError("the JSON schema has propertyNames that name no schema, or allow no name", PARAM)


def _in_other_words(schema: Schema) -> dict[str, Any]:
    """The schema without `unevaluatedProperties` and `unevaluatedItems`, where no other schema evaluates anything."""
    result = dict(schema)
    if not _IN_PLACE & schema.keys():
        for key, plainer in (("unevaluatedProperties", "additionalProperties"), ("unevaluatedItems", "items")):
            if key in result:
                value = result.pop(key)
                result.setdefault(plainer, value)
    return result


def _demands_nothing(key: str, value: Any, schema: Schema) -> bool:
    """Whether llguidance refuses this keyword, though it demands nothing here."""
    match key:
        case "format":
            return value not in _FORMATS
        case "uniqueItems" | "not":
            return value is False
        case "$dynamicAnchor" | "$recursiveAnchor":
            return True
        case "unevaluatedProperties" | "unevaluatedItems":
            return _anything(value)
        case "if":
            return _anything(schema.get("then", True)) and _anything(schema.get("else", True))
        case "then" | "else":
            return "if" not in schema or _anything(value)
        case "dependencies" | "dependentRequired" | "dependentSchemas":
            return isinstance(value, Mapping) and all(inner == [] or _anything(inner) for inner in value.values())
        case "contains":
            return schema.get("minContains") == 0 and "maxContains" not in schema
        case "minContains" | "maxContains":
            return "contains" not in schema or (key == "minContains" and "maxContains" not in schema and value == 0)
    return False


def _anything(schema: Any) -> bool:
    """Whether the schema takes every value."""
    return schema is True or (isinstance(schema, Mapping) and schema.keys() <= _ANNOTATIONS)


def _listed(names: Schema) -> Sequence[str] | None:
    """The names that are allowed, if they are a list."""
    match dict(names):
        case {"enum": list(allowed), **rest} if not rest:
            return [name for name in allowed if isinstance(name, str)]
        case {"const": str(name), **rest} if not rest:
            return [name]
    return None


def _pattern(names: Schema) -> str | None:
    """A pattern of the names that are allowed, if one pattern says it."""
    match dict(names):
        case {"pattern": str(pattern), **rest} if not rest:
            return pattern
        case {**lengths} if lengths and lengths.keys() <= {"minLength", "maxLength"}:
            least, most = lengths.get("minLength", 0), lengths.get("maxLength", "")
            counts = [count for count in (least, most) if count != ""]
            if all(isinstance(count, int) and 0 <= count <= MAX_NAME for count in counts):
                return rf"^[\s\S]{{{least},{most}}}$"
    return None
