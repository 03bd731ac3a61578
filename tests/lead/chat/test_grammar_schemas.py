"""Grammars of any tool, in every form: whatever follows one is a call that the tool's schema accepts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duo.errors import RequestError
from lead.chat.conversation import Conversation, Tool
from lead.chat.forms import FORMS
from lead.chat.forms.schemas import arguments_schema
from tests.support.forms import KEY_ENDS, WRITE, parsed
from tests.support.grammars import Follower, calls_of

ALL = sorted(FORMS)
ODD = ["$filter", "2fa", "a.b", "my key", "@type", "a:b", "-a", " a ", "é", "class"]

KEYS = st.sampled_from([*ODD, "city", "n"])
SCALARS = st.sampled_from([{"type": "string"}, {"type": "integer"}, {"type": "boolean"}, {"type": "null"}])
VALUES = st.one_of(st.sampled_from(["a", "b c", "2", "null", "", "\n", 'a"b']), st.sampled_from([1, -2, True, None]))
LISTED = st.lists(VALUES, min_size=1, max_size=4, unique_by=repr).map(lambda values: {"enum": values})
NULLABLE = st.sampled_from(
    [
        {"type": ["string", "null"], "enum": ["a", "b", None]},
        {"anyOf": [{"type": "string", "enum": ["a", "b"]}, {"type": "null"}]},
        {"anyOf": [{"$ref": "#/$defs/kind"}, {"type": "null"}]},
        {"allOf": [{"$ref": "#/$defs/kind"}]},
        {"anyOf": [{"type": "integer"}, {"const": "auto"}]},
    ]
)


def objects(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.dictionaries(KEYS, values, min_size=1, max_size=3).map(
        lambda properties: {"type": "object", "properties": properties, "required": sorted(properties)[:2]}
    )


SCHEMAS = st.recursive(
    st.one_of(SCALARS, LISTED, NULLABLE),
    lambda inner: st.one_of(inner.map(lambda items: {"type": "array", "items": items}), objects(inner)),
    max_leaves=4,
)


@pytest.mark.parametrize("form", ALL)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_whatever_follows_the_grammar_of_any_schema_is_a_call(form: str, data: st.DataObject) -> None:
    parameters = {**data.draw(objects(SCHEMAS)), "$defs": {"kind": {"enum": ["one", "two"]}}}
    tool = Tool("f", parameters=parameters)
    follower = Follower(form, data.draw(st.booleans()), Conversation([], [tool], "required"))
    text, whole = follower.walk(data.draw(st.integers(0, 1000)), 300)
    if whole:
        found = parsed(follower.form, text, tools=[tool], must_call=True)
        assert found.finish == "tool_calls" and found.calls and not found.joined("text"), text
        for _, arguments in found.calls:
            jsonschema.validate(arguments, arguments_schema(tool))


def tool_with(key: str) -> Tool:
    properties: Mapping[str, Any] = {"x": {"type": "integer"}, key: {"type": "string"}}
    return Tool("f", parameters={"type": "object", "properties": properties, "required": [key]})


@pytest.mark.parametrize("form", ALL)
def test_keys_that_are_no_names(form: str) -> None:
    for key in ODD:
        tool = tool_with(key)
        follower = Follower(form, True, Conversation([], [tool], "required"))
        for arguments in ({key: "v"}, {"x": 1, key: "v"}):
            text = WRITE[form]([("f", arguments)]).removesuffix("<|call|>")
            assert follower.accepts(text), text
            assert parsed(form, text, tools=[tool]).calls == [("f", arguments)]
        assert not follower.accepts(WRITE[form]([("f", {"x": 1})]).removesuffix("<|call|>"))


@pytest.mark.parametrize(("form", "end"), sorted(KEY_ENDS.items()))
def test_a_required_key_that_a_form_cannot_write_is_refused(form: str, end: str) -> None:
    with pytest.raises(RequestError, match=r"a key of the tool f has .* in it: rename it"):
        calls_of(form, [tool_with(f"a{end}b")])
