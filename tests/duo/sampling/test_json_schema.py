"""Schemas that become grammars, and those that are refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from duo.engines import Vocabulary
from duo.errors import DeadEndError, RequestError
from duo.sampling.grammar import Grammars
from duo.sampling.json_schema import json_rule, of_json_object, of_json_schema, of_lark
from tests.support.sampling import ask


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "obj"}, "Invalid type: obj"),
        ({"not": {"type": "string"}}, "not"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-ahead"),
        ({"type": "string", "pattern": "(a*){9}" * 100}, "700 characters in its patterns"),
        ({"patternProperties": {"a" * 600: {}}}, "600 characters"),
        ({"$ref": "http://example.com/schema"}, "not present"),
        ({"allOf": [{"$ref": "#"}]}, "allows no text"),
        ({"allOf": [{"minLength": n} for n in range(9)]}, "9 members of allOf"),
        ({"anyOf": [{"$ref": "#/$defs/a"}] * 257, "$defs": {"a": {}}}, "257 references"),
        ({"const": float("inf")}, "not JSON"),
        ({"enum": ["x" * 10] * 10_000}, "at most 65536"),
        ({"type": "object", "properties": {"a": False}, "required": ["a"]}, "unsatisfiable"),
    ],
)
def test_schemas_that_cannot_be_followed(vocabulary: Vocabulary, schema: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        Grammars(vocabulary).check(of_json_schema(schema))
    assert caught.value.param == "response_format"
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_schemas_within_a_text(vocabulary: Vocabulary) -> None:
    """As for calls of tools."""
    rules = [f"call{i}: {json_rule({'const': {'name': name, 'arguments': {}}})}" for i, name in enumerate("ab")]
    grammar = of_lark("\n".join(['start: "<tool_call>" (call0 | call1) "</tool_call>"', *rules]))
    for name, expected in (("b", True), ("c", False)):
        text = vocabulary.encode(f'<tool_call>{{"name":"{name}","arguments":{{}}}}</tool_call>')
        found = ask(Grammars(vocabulary).constraint(grammar), text)
        assert (found == sorted(vocabulary.eos)) is expected


def test_any_object(vocabulary: Vocabulary) -> None:
    follow = Grammars(vocabulary).constraint(of_json_object())
    begins = {vocabulary.token_bytes(int(token))[:1] for token in follow.allowed([])}
    assert begins == {b"{"}
    assert isinstance(follow.allowed([]), np.ndarray)


@pytest.mark.parametrize(
    "hint", [{"format": "password"}, {"format": "int64"}, {"format": 3}, {"uniqueItems": False}, {"format": "uri"}]
)
def test_what_asks_for_nothing_is_no_reason_to_refuse(vocabulary: Vocabulary, hint: dict[str, Any]) -> None:
    """pydantic's SecretStr and bytes, and OpenAPI's numbers, come so."""
    field = {"type": "string", **hint}
    schema: dict[str, Any] = {
        "$defs": {"it": field},
        "type": "object",
        # These are names of fields, and no keywords.
        "properties": {"format": field, "uniqueItems": {"type": "array", "items": {"anyOf": [field, {"const": 1}]}}},
        "required": ["format", "uniqueItems"],
        "additionalProperties": False,
    }
    grammars = Grammars(vocabulary)
    grammar = of_json_schema(schema)
    grammars.check(grammar)
    assert "uniqueItems" in grammar and schema["properties"]["format"] == {"type": "string", **hint}
    value = "https://example.org" if hint == {"format": "uri"} else "x"
    text = json.dumps({"format": value, "uniqueItems": [value, 1]}, separators=(",", ":"))
    assert set(grammars.constraint(grammar).allowed(vocabulary.encode_rendered(text))) == vocabulary.eos


def follows(vocabulary: Vocabulary, schema: dict[str, Any], value: Any) -> bool:
    """Whether the grammar of the schema takes the value."""
    grammars, grammar = Grammars(vocabulary), of_json_schema(schema)
    grammars.check(grammar)
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    try:
        return set(grammars.constraint(grammar).allowed(vocabulary.encode_rendered(text))) == vocabulary.eos
    except DeadEndError:
        return False


NUMBERS: dict[str, Any] = {"type": "object", "additionalProperties": {"type": "number"}}


@pytest.mark.parametrize(
    "nothing",
    [
        {"propertyNames": {"type": "string"}},
        {"propertyNames": {}},
        {"propertyNames": True},
        {"propertyNames": {"type": ["string", "null"], "title": "Key", "minLength": 0, "format": "x-key"}},
        {"propertyNames": {"$ref": "#/$defs/Key"}, "$defs": {"Key": {"type": "string", "$comment": "any"}}},
        {"unevaluatedProperties": False},
        {"unevaluatedProperties": True, "$dynamicAnchor": "node"},
        {"not": False, "dependentRequired": {}, "dependentSchemas": {"a": {}}, "dependencies": {"a": []}},
        {"if": {"required": ["a"]}},
        {"if": {"required": ["a"]}, "then": {}, "else": {"description": "Nothing."}},
        {"then": {"required": ["b"]}},
        {"minContains": 0, "maxContains": 3},
        {"contains": {"type": "string"}, "minContains": 0},
        {"minProperties": 0, "readOnly": True, "examples": [{"propertyNames": False}], "default": {"not": {}}},
    ],
)
def test_keywords_that_demand_nothing_here(vocabulary: Vocabulary, nothing: dict[str, Any]) -> None:
    inner = {key: value for key, value in nothing.items() if key != "$defs"}
    definitions = {"$defs": nothing["$defs"]} if "$defs" in nothing else {}
    nested = {"type": "object", "properties": {"not": {**NUMBERS, **inner}}, "required": ["not"], **definitions}
    assert follows(vocabulary, {**NUMBERS, **nothing}, {"any key": 1})
    assert follows(vocabulary, nested, {"not": {"b": 2.5}})
    assert not follows(vocabulary, nested, {"not": {"b": "x"}})


@pytest.mark.parametrize(
    ("names", "good", "bad"),
    [
        ({"type": "string", "pattern": "^[a-c]+$"}, ["a", "abc"], ["d", ""]),
        ({"pattern": "^[0-9a-f]{4}$", "format": "uuid"}, ["00ff"], ["00f"]),
        ({"maxLength": 3}, ["", "äöü"], ["abcd"]),
        ({"minLength": 2}, ["ab", "abc"], ["a"]),
        ({"type": "string", "minLength": 1, "maxLength": 2}, ["a", "ab"], ["", "abc"]),
        ({"type": "string", "enum": ["red", "blue"]}, ["red", "blue"], ["green"]),
        ({"const": "only"}, ["only"], ["other"]),
        ({"$ref": "#/$defs/Color"}, ["red"], ["green"]),
    ],
)
def test_names_of_properties(vocabulary: Vocabulary, names: dict[str, Any], good: list[str], bad: list[str]) -> None:
    """zod's records and pydantic's dictionaries come so."""
    schema = {**NUMBERS, "propertyNames": names, "$defs": {"Color": {"type": "string", "enum": ["red"]}}}
    assert [name for name in [*good, *bad] if follows(vocabulary, schema, {name: 1})] == good
    assert not follows(vocabulary, schema, {good[0]: "x"}), "its value is a number"


def test_names_of_properties_that_must_be_there(vocabulary: Vocabulary) -> None:
    names = {"type": "string", "enum": ["a", "b"]}
    schema = {**NUMBERS, "properties": {"a": {"type": "string"}}, "propertyNames": names, "required": ["a", "b"]}
    assert follows(vocabulary, schema, {"a": "x", "b": 1})
    assert not follows(vocabulary, schema, {"a": "x"}) and not follows(vocabulary, schema, {"a": "x", "b": "y"})


@pytest.mark.parametrize(
    "schema",
    [
        {"propertyNames": {"pattern": "a", "maxLength": 3}},
        {"propertyNames": {"maxLength": 100_000}},
        {"propertyNames": {"maxLength": "3"}},
        {"propertyNames": {"pattern": "a"}, "properties": {"b": {}}},
        {"propertyNames": {"enum": ["a"]}, "properties": {"b": {}}},
        {"propertyNames": {"maxLength": 3}, "patternProperties": {"a": {}}},
        {"propertyNames": {"type": "number"}},
        {"propertyNames": {"format": "uuid"}},
        {"propertyNames": False},
        {"propertyNames": {"$ref": "#/$defs/none"}},
        {"propertyNames": {"$ref": "#/propertyNames"}},
        {"propertyNames": {"anyOf": [{"const": "a"}]}},
    ],
)
def test_names_of_properties_that_cannot_be_followed(schema: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="propertyNames") as caught:
        of_json_schema({"type": "object", **schema})
    assert caught.value.param == "response_format" and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "schema",
    [
        {"not": {}},
        {"if": {}, "then": {"type": "object"}},
        {"dependentRequired": {"a": ["b"]}},
        {"contains": {"type": "string"}},
        {"allOf": [{}], "unevaluatedProperties": False},
    ],
)
def test_keywords_that_demand_something_are_still_refused(vocabulary: Vocabulary, schema: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=next(reversed(schema))):
        Grammars(vocabulary).check(of_json_schema(schema))


def test_what_cannot_be_kept_is_refused(vocabulary: Vocabulary) -> None:
    with pytest.raises(RequestError, match="uniqueItems"):
        Grammars(vocabulary).check(of_json_schema({"type": "array", "uniqueItems": True}))
