"""Schemas that become grammars, and those that are refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from duo.engines import Vocabulary
from duo.errors import RequestError
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


def test_what_cannot_be_kept_is_refused(vocabulary: Vocabulary) -> None:
    with pytest.raises(RequestError, match="uniqueItems"):
        Grammars(vocabulary).check(of_json_schema({"type": "array", "uniqueItems": True}))
