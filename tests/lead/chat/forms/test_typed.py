"""What a schema says of types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from lead.chat.forms.typed import schema_of, types_of


@pytest.mark.parametrize("keyword", ["anyOf", "oneOf", "allOf"])
def test_schemas_that_refer_to_each_other_many_times(keyword: str) -> None:
    """Each one is looked at once. Otherwise there would be billions of ways through these."""
    size = 200
    names = [f"n{i}" for i in range(size)]
    definitions: dict[str, Any] = {name: {keyword: [{"$ref": f"#/$defs/{other}"} for other in names]} for name in names}
    definitions["n7"] = {"type": "integer"}
    assert types_of({"$defs": definitions, "$ref": "#/$defs/n0"}) == {"integer"}
    deep: Mapping[str, Any] = {"type": "null"}
    for _ in range(5000):
        deep = {keyword: [deep]}
    assert types_of(deep) == {"null"}


def test_references_within_a_parameter() -> None:
    parameters = {
        "properties": {"a": {"$ref": "#/$defs/a~1b"}, "c": {"anyOf": [{"$ref": "#/$defs/loop"}, {"type": "null"}]}},
        "$defs": {"a/b": {"enum": [1, "x"]}, "loop": {"$ref": "#/$defs/loop"}},
    }
    assert types_of(schema_of(parameters, "a")) == {"integer", "string"}
    assert types_of(schema_of(parameters, "c")) == {"null"}
    assert types_of({"$ref": "https://elsewhere/schema"}) == types_of({"$ref": "#/$defs/none"}) == frozenset()
