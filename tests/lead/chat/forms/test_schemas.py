"""Which keys the arguments of a call may have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from lead.chat.conversation import Tool
from lead.chat.forms.schemas import arguments_schema

OBJECT: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "string"}}}
CLOSED = {**OBJECT, "additionalProperties": False}


def of(parameters: Mapping[str, Any] | None) -> Mapping[str, Any]:
    return arguments_schema(Tool("f", parameters=parameters))


@pytest.mark.parametrize("parameters", [None, {}, {"type": "object", "properties": {}}])
def test_no_parameters_are_no_keys(parameters: Mapping[str, Any] | None) -> None:
    assert of(parameters) == {"type": "object", "properties": {}, "additionalProperties": False}


def test_keys_at_any_depth() -> None:
    inner = {"x": OBJECT, "y": {"type": "array", "items": OBJECT}, "z": {"anyOf": [OBJECT, {"type": "null"}]}}
    closed = {"x": CLOSED, "y": {"type": "array", "items": CLOSED}, "z": {"anyOf": [CLOSED, {"type": "null"}]}}
    found = of({"type": "object", "properties": {**inner, "r": {"$ref": "#/$defs/d"}}, "$defs": {"d": OBJECT}})
    assert found["properties"] == {**closed, "r": {"$ref": "#/$defs/d"}}
    assert found["$defs"] == {"d": CLOSED} and found["additionalProperties"] is False


@pytest.mark.parametrize(
    "schema",
    [
        {**OBJECT, "additionalProperties": True},
        {**OBJECT, "additionalProperties": {"type": "number"}},
        {**OBJECT, "patternProperties": {"^x": {}}},
        {**OBJECT, "unevaluatedProperties": False},
        {"type": "object"},
        {**OBJECT, "allOf": [{"properties": {"b": {}}}]},
        {**OBJECT, "anyOf": [{"properties": {"b": {}}}, {"properties": {"c": {}}}]},
        {**OBJECT, "$ref": "#/$defs/base"},
        {"allOf": [OBJECT, {"properties": {"b": {"type": "number"}}}]},
    ],
)
def test_schemas_that_admit_other_keys_stay_as_they_are(schema: Mapping[str, Any]) -> None:
    found = of({"type": "object", "properties": {"x": schema}, "$defs": {"base": {"properties": {"b": {}}}}})
    assert found["properties"]["x"] == schema
    if "$ref" in schema:
        assert found["$defs"]["base"] == {"properties": {"b": {}}}


def test_a_base_that_others_extend_stays_open() -> None:
    """Directly, and through a further reference."""
    extended = {"allOf": [{"$ref": "#/$defs/base"}, {"properties": {"b": {}}}]}
    definitions = {"base": {"$ref": "#/$defs/root"}, "root": OBJECT, "other": OBJECT}
    found = of({"type": "object", "properties": {"x": extended}, "$defs": definitions})
    assert found["properties"]["x"] == extended
    assert found["$defs"] == {**definitions, "other": CLOSED}


def test_lists_of_required_keys_change_nothing() -> None:
    schema = {**OBJECT, "anyOf": [{"required": ["a"]}, {"required": ["b"]}], "required": ["c"]}
    found = of(schema)
    assert found["additionalProperties"] is False and found["properties"] == {**OBJECT["properties"], "c": {}}
