"""Grammars of calls in every form: what follows them is read as a call, and nothing else follows them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jsonschema
import pytest

from duo.errors import RequestError
from duo.sampling.grammar import Grammars
from lead.chat.conversation import Conversation, Tool
from lead.chat.forms import FORMS
from lead.chat.forms.schemas import arguments_schema
from lead.chat.grammar import grammar
from tests.support.forms import TOOLS, WRITE, parsed, thinks
from tests.support.grammars import ASKED, Follower, calls_of, vocabulary_of

ALL = sorted(FORMS)
CALLS = [("weather", {"city": "Köln", "days": 3, "exact": True}), ("time", {})]
SINGLE = {"gpt-oss"}
"""Forms in which a call ends the answer."""


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("form", ALL)
def test_calls_as_the_model_writes_them_follow_their_grammar(form: str, special: bool) -> None:
    follower = Follower(form, special)
    for calls in (CALLS[:1], CALLS[1:]):
        text = WRITE[form](calls).removesuffix("<|call|>")
        assert follower.accepts(text)
        assert not follower.accepts(text[:-1]) and not follower.accepts(text + "x")
    assert not follower.accepts("It rains.") and not follower.accepts("")
    assert not follower.accepts(WRITE[form]([("other", {})]).removesuffix("<|call|>"))
    for wrong in ({"city": "a", "made_up": 1}, {"days": 1}, {"city": "a", "days": "no"}):
        assert not follower.accepts(WRITE[form]([("weather", wrong)]).removesuffix("<|call|>"))


@pytest.mark.parametrize("form", sorted(set(ALL) - SINGLE))
def test_several_calls_where_they_are_parallel(form: str) -> None:
    text = WRITE[form](CALLS)
    assert Follower(form, True, replace(ASKED, parallel=True)).accepts(text)
    for parallel in (False, None):
        assert not Follower(form, True, replace(ASKED, parallel=parallel)).accepts(text)


@pytest.mark.parametrize("form", ALL)
def test_a_named_tool(form: str) -> None:
    follower = Follower(form, True, replace(ASKED, named="time"))
    assert follower.accepts(WRITE[form](CALLS[1:]).removesuffix("<|call|>"))
    assert not follower.accepts(WRITE[form](CALLS[:1]).removesuffix("<|call|>"))


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("form", ALL)
def test_thinking_comes_first_where_the_prompt_or_the_model_begins_it(form: str, special: bool) -> None:
    open = FORMS[form].thinking.open
    call = WRITE[form](CALLS[:1]).removesuffix("<|call|>")
    thought = thinks(FORMS[form], "Hm < } ok")
    follower = Follower(form, special, prompt=f"user: hi {open}")
    assert follower.accepts(thought.removeprefix(open) + call)
    assert not follower.accepts(call)
    free = Follower(form, special)
    assert free.accepts(call)
    assert free.accepts(thought + call) == (special or form == "gpt-oss")  # else it is not known that it thinks


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("form", ALL)
def test_whatever_follows_a_grammar_is_a_call(form: str, special: bool) -> None:
    follower = Follower(form, special)
    schemas = {tool.name: arguments_schema(tool) for tool in TOOLS}
    ended = 0
    for seed in range(12):
        text, whole = follower.walk(seed)
        if not whole:
            continue
        ended += 1
        found = parsed(follower.form, text, must_call=True)
        assert found.finish == "tool_calls" and found.calls and not found.joined("text"), text
        for name, given in found.calls:
            jsonschema.validate(given, schemas[name])
    assert ended >= 6


ANSWER: Mapping[str, Any] = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("form", ALL)
def test_an_answer_of_a_schema_or_a_call(form: str) -> None:
    follower = Follower(form, True, replace(ASKED, choice="auto", schema=ANSWER))
    answer = "<|channel|>final<|message|>" if form == "gpt-oss" else ""
    assert follower.accepts(answer + '{"n":1}') and not follower.accepts(answer + '{"n":"a"}')
    assert follower.accepts(WRITE[form](CALLS[:1]).removesuffix("<|call|>"))
    alone = Follower(form, True, replace(ASKED, choice="none", schema=ANSWER))
    assert alone.accepts(answer + '{"n":1}')
    assert not alone.accepts(WRITE[form](CALLS[:1]).removesuffix("<|call|>"))


def test_free_answers_have_no_grammar() -> None:
    assert grammar(replace(ASKED, choice="auto"), FORMS["hermes"]) == ""
    assert grammar(Conversation([]), FORMS["hermes"]) == ""


def test_calls_and_answers_may_hold_a_space_or_none() -> None:
    follower = Follower("hermes", True)
    for text in ('{"name": "time", "arguments": {}}', '{"name":"time","arguments":{}}'):
        assert follower.accepts(f"<tool_call>{text}</tool_call>")
    assert not follower.accepts('<tool_call>{"name":  "time","arguments":{}}</tool_call>')


VALUED = ["qwen3-coder", "seed", "minimax", "glm", "deepseek-v3.2", "gemma4", "pythonic", "hermes", "kimi-k2"]


@pytest.mark.parametrize("form", VALUED)
@pytest.mark.parametrize(
    ("schema", "given", "wrong"),
    [
        ({"type": ["string", "null"], "enum": ["a", "b", None]}, None, "c"),
        ({"type": ["string", "null"], "enum": ["a", "b", None]}, "a", 1),
        ({"anyOf": [{"type": "string", "enum": ["a", "b"]}, {"type": "null"}]}, "b", "c"),
        ({"oneOf": [{"const": "a"}, {"const": "b"}]}, "b", "c"),
        ({"anyOf": [{"const": "a"}, {"const": 1}]}, 1, "c"),
        ({"allOf": [{"$ref": "#/$defs/kind"}]}, "two", "three"),
        ({"anyOf": [{"$ref": "#/$defs/kind"}, {"type": "null"}]}, None, "three"),
        ({"enum": ["a", 1]}, 1, 2),
        ({"enum": ["", "\n"]}, "\n", "a"),
        ({"anyOf": [{"type": "integer"}, {"enum": ["auto"]}]}, 12, "c"),
        ({"anyOf": [{"type": "integer"}, {"enum": ["auto"]}]}, "auto", "c"),
        ({"enum": ["a", "b"]}, "b", "c"),
        ({"type": ["string", "null"]}, "x", None),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, None, None),
        ({"$ref": "#/$defs/kind"}, "one", "three"),
        ({"type": "array", "items": {"type": "integer"}}, [1, 2], None),
        ({}, "anything", None),
    ],
)
def test_values_of_many_types(form: str, schema: Mapping[str, Any], given: Any, wrong: Any) -> None:
    parameters = {
        "type": "object",
        "properties": {"v": schema},
        "required": ["v"],
        "$defs": {"kind": {"enum": ["one", "two"]}},
    }
    tool = Tool("f", parameters=parameters)
    follower = Follower(form, True, Conversation([], [tool], "required"))
    assert follower.accepts(text := WRITE[form]([("f", {"v": given})]))
    assert parsed(form, text, tools=[tool]).calls == [("f", {"v": given})]
    if wrong is not None:
        assert not follower.accepts(WRITE[form]([("f", {"v": wrong})]))


@pytest.mark.parametrize("form", sorted(set(ALL) - {"gemma3", "gemma4", "functiongemma", "pythonic", "lfm2"}))
def test_keys_that_a_schema_admits(form: str) -> None:
    """Where a schema says so, other keys may come. The forms of Python and Gemma never have others."""
    tool = Tool("f", parameters={"type": "object", "properties": {}, "additionalProperties": {"type": "string"}})
    follower = Follower(form, True, Conversation([], [tool], "required"))
    assert follower.accepts(WRITE[form]([("f", {"any": "x"})]).removesuffix("<|call|>"))


PLACE: Mapping[str, Any] = {
    "type": "object",
    "properties": {"x": {"type": "integer"}, "label": {"type": "string"}, "inner": {"$ref": "#/$defs/place"}},
    "required": ["x"],
}
PAIR: Mapping[str, Any] = {
    "allOf": [{"$ref": "#/$defs/place"}, {"properties": {"y": {"enum": [1, "b"]}}, "required": ["y"]}]
}


_REFERENCE: Mapping[str, Any] = {"$ref": "#/$defs/place"}


@pytest.mark.parametrize("form", ALL)
@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        (_REFERENCE, [{"x": 1}, {"x": 1, "label": "a"}, {"x": 1, "inner": {"x": 2}}], [{}, {"label": "a"}]),
        (_REFERENCE, [{"x": 1, "inner": {"x": 2, "inner": {"x": 3}}}], [{"x": 1, "inner": {}}, {"x": "a"}]),
        ({"type": "array", "items": _REFERENCE}, [[], [{"x": 1}, {"x": 2}]], [[{}], [{"label": "a"}], [1]]),
        ({"anyOf": [_REFERENCE, {"type": "null"}]}, [None, {"x": 1}], [{}]),
        ({"allOf": [_REFERENCE]}, [{"x": 1}], [{}]),
        ({"type": "object", "properties": {"d": _REFERENCE}, "required": ["d"]}, [{"d": {"x": 1}}], [{}, {"d": {}}]),
        ({"$ref": "#/$defs/list"}, [[], [[], [[]]]], [1]),
    ],
)
def test_references_to_objects(
    form: str, schema: Mapping[str, Any], right: Sequence[Any], wrong: Sequence[Any]
) -> None:
    parameters = {
        "type": "object",
        "properties": {"v": schema},
        "required": ["v"],
        "$defs": {"place": PLACE, "list": {"type": "array", "items": {"$ref": "#/$defs/list"}}},
    }
    tools = [Tool("f", parameters=parameters), Tool("g", parameters=parameters)]
    follower = Follower(form, True, Conversation([], tools, "required"))
    for name in ("f", "g"):
        for value in right:
            assert follower.accepts(WRITE[form]([(name, {"v": value})]).removesuffix("<|call|>")), value
        for value in wrong:
            assert not follower.accepts(WRITE[form]([(name, {"v": value})]).removesuffix("<|call|>")), value


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        (PAIR, [{"x": 1, "y": 1}, {"x": 1, "y": "b"}], [{"x": 1}, {"y": 1}, {"x": 1, "y": 2}]),
        (
            {"type": ["object", "null"], "properties": {"a": {"type": "number"}}},
            [None, {}, {"a": 1.5}],
            [{"a": "b"}, "a"],
        ),
        ({"type": ["integer", "string"], "minimum": 3}, [3, "a"], [2]),
        (
            {"anyOf": [{"enum": ["a", 1, None]}, {"type": "array", "items": {"type": "boolean"}}]},
            ["a", 1, None, [True]],
            ["b", 2, ["a"]],
        ),
    ],
)
def test_schemas_of_several_parts_in_gemmas_form(
    schema: Mapping[str, Any], right: Sequence[Any], wrong: Sequence[Any]
) -> None:
    parameters = {"type": "object", "properties": {"v": schema}, "required": ["v"], "$defs": {"place": PLACE}}
    follower = Follower("gemma4", True, Conversation([], [Tool("f", parameters=parameters)], "required"))
    for value in right:
        assert follower.accepts(WRITE["gemma4"]([("f", {"v": value})])), value
    for value in wrong:
        assert not follower.accepts(WRITE["gemma4"]([("f", {"v": value})])), value


def test_schemas_that_gemmas_form_cannot_take() -> None:
    def refused(definitions: Mapping[str, Any]) -> str:
        parameters = {
            "type": "object",
            "properties": {"v": {"$ref": "#/$defs/n0"}},
            "required": ["v"],
            "$defs": definitions,
        }
        with pytest.raises(RequestError) as error:
            Grammars(vocabulary_of("gemma4", False)).check(calls_of("gemma4", [Tool("f", parameters=parameters)]))
        return str(error.value)

    names = [f"n{i}" for i in range(200)]
    every = {"allOf": [{"$ref": f"#/$defs/{name}"} for name in names]}
    assert "20000 parts" in refused({name: {"properties": dict.fromkeys(names, every)} for name in names})
    assert "too deep" in refused({f"n{i}": {"items": {"$ref": f"#/$defs/n{i + 1}"}} for i in range(1500)})


@pytest.mark.parametrize("form", ALL)
def test_many_tools_stay_small(form: str) -> None:
    described = {**(TOOLS[0].parameters or {}), "description": "Anything at all. " * 100}
    tools = [replace(TOOLS[0], name=f"tool_{i}", parameters=described) for i in range(100)]
    text = calls_of(form, tools)
    assert len(text) < 2 * len(json.dumps([tool.parameters for tool in tools]))
    assert "Anything at all" not in text
    Grammars(vocabulary_of(form, False)).check(text)
