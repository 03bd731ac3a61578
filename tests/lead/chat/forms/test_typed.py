"""What a schema says of types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from lead.chat.forms.allowed import ANYTHING, allowed
from lead.chat.forms.typed import schema_of, typed


@pytest.mark.parametrize("keyword", ["anyOf", "oneOf", "allOf"])
def test_schemas_that_refer_to_each_other_many_times(keyword: str) -> None:
    """Each one is looked at once. Otherwise there would be billions of ways through these."""
    size = 200
    names = [f"n{i}" for i in range(size)]
    definitions: dict[str, Any] = {name: {keyword: [{"$ref": f"#/$defs/{other}"} for other in names]} for name in names}
    definitions["n7"] = {"type": "integer"}
    assert allowed({"$defs": definitions, "$ref": "#/$defs/n0"}).types == {"integer"}
    deep: Mapping[str, Any] = {"type": "null"}
    for _ in range(5000):
        deep = {keyword: [deep]}
    assert allowed(deep) == ANYTHING  # it is too deep to say anything


def test_references_within_a_parameter() -> None:
    parameters = {
        "properties": {"a": {"$ref": "#/$defs/a~1b"}, "c": {"anyOf": [{"$ref": "#/$defs/loop"}, {"type": "null"}]}},
        "$defs": {"a/b": {"enum": [1, "x"]}, "loop": {"$ref": "#/$defs/loop"}},
    }
    assert allowed(schema_of(parameters, "a")).types == {"integer", "string"}
    assert allowed(schema_of(parameters, "c")).types == {"null"}
    assert allowed({"$ref": "https://elsewhere/schema"}) == allowed({"$ref": "#/$defs/none"}) == ANYTHING


@pytest.mark.parametrize(
    ("schema", "listed", "free"),
    [
        ({"type": ["string", "null"], "enum": ["a", 1, None]}, ["a", None], set()),
        ({"anyOf": [{"type": "string", "enum": ["a"]}, {"type": "null"}]}, ["a"], {"null"}),
        ({"oneOf": [{"const": "a"}, {"const": True}]}, ["a", True], set()),
        ({"allOf": [{"$ref": "#/$defs/kind"}], "enum": ["x", "y"]}, ["x"], set()),
        ({"allOf": [{"type": ["string", "null"]}, {"type": "string"}]}, [], {"string"}),
        ({"anyOf": [{"type": "number"}, {"const": "auto"}]}, ["auto"], {"number", "integer"}),
        ({"anyOf": [False, {"enum": [[1], {"a": 1}]}]}, [[1], {"a": 1}], set()),
        ({"enum": [1, True]}, [1, True], set()),
    ],
)
def test_values_that_a_schema_allows(schema: Mapping[str, Any], listed: list[Any], free: set[str]) -> None:
    found = allowed({**schema, "$defs": {"kind": {"enum": ["w", "x", 1]}}})
    assert list(found.listed.values()) == listed and found.free == free


def test_a_schema_that_takes_too_much_work_says_nothing() -> None:
    names = [f"n{i}" for i in range(100)]
    definitions: dict[str, Any] = {name: {"anyOf": [{"$ref": f"#/$defs/{other}"} for other in names]} for name in names}
    definitions["n7"] = {"enum": list(range(1000))}
    assert allowed({"$defs": definitions, "$ref": "#/$defs/n0"}) == ANYTHING


def test_a_listed_string_is_no_other_value() -> None:
    assert typed("2", {"enum": ["2", 1]}) == "2" and typed("1", {"enum": ["2", 1]}) == 1
