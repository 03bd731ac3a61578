"""Tools: what the prompt says about them, and the grammar of a required call."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from openai import OpenAI

from duo.errors import DeadEndError
from duo.sampling.grammar import Grammars
from tests.support.api import CALL, CHAT, HI, WEATHER, grammar_of, post
from tests.support.http import ScriptedAnswerer, conversation, vocabulary

TIME: Any = {"type": "function", "function": {"name": "time"}}


def test_tools_with_the_openai_client(client: OpenAI, answerer: ScriptedAnswerer) -> None:
    answerer.script = [("Let me ", "see.\n<tool"), (f"_call>\n{CALL}\n</tool_",), ("call>\n",)]
    completion = client.chat.completions.create(model="any", messages=HI, tools=[WEATHER, TIME])
    (choice,) = completion.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Let me see.\n")
    (call,) = choice.message.tool_calls or []
    assert call.type == "function" and call.function.name == "weather"
    assert re.fullmatch("[a-zA-Z0-9]{9}", call.id), "what Mistral's templates take"
    assert json.loads(call.function.arguments) == {"city": "Köln"}
    question = answerer.next_asked().question
    given = conversation(question.prompt)
    assert [tool["function"]["name"] for tool in given["tools"]] == ["weather", "time"]
    assert question.sampling.grammar == ""
    # And its result.
    turns: list[Any] = [*HI, choice.message.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
    client.chat.completions.create(model="any", messages=turns, tools=[WEATHER])
    messages = answerer.next_asked().messages
    assert messages[1]["tool_calls"][0]["function"] == {"name": "weather", "arguments": {"city": "Köln"}}
    assert messages[2] == {"role": "tool", "content": "rain", "tool_call_id": call.id, "name": "weather"}


def test_streamed_tools_with_the_openai_client(client: OpenAI, answerer: ScriptedAnswerer) -> None:
    answerer.script = [("Let ",), ("me", f"<tool_call>{CALL}</tool_call>"), (f"<tool_call>{CALL}", "</tool_call>")]
    with client.chat.completions.stream(model="any", messages=HI, tools=[WEATHER]) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta" and event.delta]
        final = stream.get_final_completion()
    assert deltas == ["Let ", "me"]
    message = final.choices[0].message
    assert final.choices[0].finish_reason == "tool_calls"
    assert [json.loads(call.function.arguments) for call in message.tool_calls or []] == [{"city": "Köln"}] * 2
    assert len({call.id for call in message.tool_calls or []}) == 2


def test_a_choice_of_tools(url: str, answerer: ScriptedAnswerer) -> None:
    tools = [WEATHER, TIME]
    required = grammar_of(url, answerer, tools=tools, tool_choice="required", parallel_tool_calls=False)
    assert "weather" in required and "time" in required
    for name, arguments, whole in (
        ("weather", '{"city":"Köln"}', True),
        ("weather", "{}", False),
        ("time", "{}", True),
    ):
        call = f'<tool_call>{{"name":"{name}","arguments":{arguments}}}</tool_call>'
        text = vocabulary().encode_rendered(call)
        constraint = Grammars(vocabulary()).constraint(required)
        if whole:
            assert set(constraint.allowed(text)) == vocabulary().eos
        else:
            with pytest.raises(DeadEndError):
                constraint.allowed(text)
    named = {"type": "function", "function": {"name": "time"}}
    only = grammar_of(url, answerer, tools=tools, tool_choice=named)
    assert "weather" not in only and "time" in only
    both = grammar_of(url, answerer, tools=tools, response_format={"type": "json_object"})
    assert "weather" in both and "time" in both and both != required
    assert Grammars(vocabulary()).constraint(both).allowed(vocabulary().encode_rendered("{}")).size
    # Only some of them.
    for mode, grammar in (("required", only), ("auto", "")):
        allowed = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [named]}}
        given: dict[str, Any] = {"messages": HI, "tools": tools, "tool_choice": allowed, "parallel_tool_calls": False}
        assert post(url, CHAT, **given).status_code == 200
        question = answerer.next_asked().question
        assert question.sampling.grammar == grammar
        assert [tool["function"]["name"] for tool in conversation(question.prompt)["tools"]] == ["time"]
    answerer.script = [(CALL.replace(" ", ""),)]
    body = post(url, CHAT, messages=HI, tools=tools, tool_choice="required").json()
    answerer.next_asked()
    assert body["choices"][0]["message"]["content"] is None
    assert body["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "weather"
    # With none of them, what looks like a call is text.
    body = post(url, CHAT, messages=HI, tools=tools, tool_choice="none").json()
    assert body["choices"][0]["message"]["content"] == CALL.replace(" ", "")
    assert not conversation(answerer.next_asked().question.prompt)["tools"]


@pytest.mark.parametrize(
    ("parameters", "argument"),
    [
        *[({"parameters": schema}, False) for schema in (None, {}, {"type": "object", "properties": {}})],
        ({}, False),
        ({"parameters": {"title": "nowArguments", "properties": {}, "required": []}}, False),
        ({"parameters": {"type": "object"}}, True),
        ({"parameters": {"properties": {}, "additionalProperties": True}}, True),
        ({"parameters": {"type": ["object", "null"]}}, True),
        ({"parameters": {"type": None}}, True),
        ({"parameters": {"minProperties": 0}}, True),
    ],
)
def test_a_call_without_parameters_has_no_arguments(
    url: str, answerer: ScriptedAnswerer, parameters: dict[str, Any], argument: bool
) -> None:
    tools = [{"type": "function", "function": {"name": "time", **parameters}}]
    grammar = grammar_of(url, answerer, tools=tools, tool_choice="required", parallel_tool_calls=False)

    def follows(arguments: str) -> bool:
        call = f'<tool_call>{{"name":"time","arguments":{arguments}}}</tool_call>'
        text = vocabulary().encode_rendered(call)
        try:
            return set(Grammars(vocabulary()).constraint(grammar).allowed(text)) == vocabulary().eos
        except DeadEndError:
            return False

    assert [follows(arguments) for arguments in ("{}", '{" Execution":null}', "7")] == [True, argument, False]


def test_one_call_at_a_time(url: str, answerer: ScriptedAnswerer) -> None:
    answerer.script = [(f"<tool_call>{CALL}</tool_call>",)] * 2
    body = post(url, CHAT, messages=HI, tools=[WEATHER], parallel_tool_calls=False).json()
    assert len(body["choices"][0]["message"]["tool_calls"]) == 1
