"""Messages in all their forms, and the form that an answer must have."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.support.api import HI, TEXT, WEATHER, asked, error_of, grammar_of, post
from tests.support.http import SUMMARY, ScriptedAnswerer, conversation, vocabulary


def test_variables_of_the_template(url: str, answerer: ScriptedAnswerer) -> None:
    """Such as Qwen's enable_thinking. The client cannot give a template."""
    asked(url, answerer, chat_template_kwargs={"enable_thinking": False})
    refused = post(url, messages=HI, chat_template_kwargs={"chat_template": "{{ 1 }}"})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "chat_template_kwargs"


def test_messages_as_parts_and_roles(url: str, answerer: ScriptedAnswerer) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    question = asked(
        url,
        answerer,
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": parts, "name": "ann"},
            {"role": "assistant", "content": "", "tool_calls": None, "refusal": None},
            {"role": "user", "content": "日本\n語"},
        ],
    )
    assert conversation(question.prompt)["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "one\ntwo"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "日本\n語"},
    ]


@pytest.mark.parametrize(
    ("turn", "content"),
    [
        ({"refusal": "I cannot."}, "I cannot."),
        ({"content": None, "refusal": "I cannot."}, "I cannot."),
        ({"content": "", "refusal": "I cannot."}, "I cannot."),
        ({"content": "Well.", "refusal": "I cannot."}, "Well."),
        ({"content": [{"type": "refusal", "refusal": "I cannot."}]}, "I cannot."),
        ({"content": [{"type": "text", "text": "Well."}, {"type": "refusal", "refusal": "No."}]}, "Well.\nNo."),
    ],
)
def test_a_refusal_is_what_the_assistant_said(
    url: str, answerer: ScriptedAnswerer, turn: dict[str, Any], content: str
) -> None:
    question = asked(url, answerer, messages=[*HI, {"role": "assistant", **turn}, *HI])
    assert conversation(question.prompt)["messages"][1] == {"role": "assistant", "content": content}


USED: Any = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
RESULT: Any = {"role": "tool", "tool_call_id": "call_1", "content": "rain"}


def given(url: str, answerer: ScriptedAnswerer, *turns: Any, **fields: Any) -> list[dict[str, Any]]:
    """The messages that the chat template gets, after a first question and before a last one."""
    question = asked(url, answerer, messages=[*HI, *turns, *HI], **fields)
    messages: list[dict[str, Any]] = conversation(question.prompt)["messages"]
    return messages[1:-1]


@pytest.mark.parametrize(
    "turn",
    [
        {"content": None}, {}, {"content": ""}, {"content": []}, {"content": None, "tool_calls": []},
        {"tool_calls": None, "function_call": None, "audio": None, "refusal": None, "annotations": []},
        {"content": None, "reasoning_details": [{"type": "reasoning.text"}], "provider_specific_fields": {}},
    ],
)  # fmt: skip
def test_an_assistant_that_said_nothing(url: str, answerer: ScriptedAnswerer, turn: dict[str, Any]) -> None:
    assert given(url, answerer, {"role": "assistant", **turn}) == [{"role": "assistant", "content": ""}]


@pytest.mark.parametrize(
    "turn",
    [
        {"content": "Hi.", "reasoning_content": "Hm."},
        {"content": "Hi.", "reasoning": "Hm."},
        {"content": [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Hi."}]},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, "Hi."]},
        {"content": [{"type": "reasoning", "text": "Hm."}, {"type": "output_text", "text": "Hi."}]},
    ],
)
def test_thinking_reaches_the_template(url: str, answerer: ScriptedAnswerer, turn: dict[str, Any]) -> None:
    (message,) = given(url, answerer, {"role": "assistant", **turn})
    assert (message["reasoning_content"], message["content"]) == ("Hm.", "Hi.")


@pytest.mark.parametrize("rest", [{}, {"content": None}, {"content": "", "tool_calls": []}, {"content": []}])
def test_an_assistant_that_only_thought(url: str, answerer: ScriptedAnswerer, rest: dict[str, Any]) -> None:
    (message,) = given(url, answerer, {"role": "assistant", "reasoning_content": "Hm.", **rest})
    assert (message["reasoning_content"], message["content"]) == ("Hm.", "")


def test_fields_of_others_are_ignored(url: str, answerer: ScriptedAnswerer) -> None:
    turn = {"role": "assistant", "content": "Hi.", "reasoning_content": {"a": 1}, "reasoning": 7, "audience": []}
    assert given(url, answerer, turn) == [{"role": "assistant", "content": "Hi."}]


@pytest.mark.parametrize("id", [None, "", "call_Ab12Cd34Ef56"])
@pytest.mark.parametrize("result_id", [None, "call_Ab12Cd34Ef56", "unknown"])
def test_calls_and_results_without_ids(
    url: str, answerer: ScriptedAnswerer, id: str | None, result_id: str | None
) -> None:
    call, result = {**USED, "id": id}, {**RESULT, "tool_call_id": result_id}
    turns = given(url, answerer, {"role": "assistant", "content": None, "tool_calls": [call]}, result)
    assert turns[0]["tool_calls"][0]["id"] == turns[1]["tool_call_id"] != ""
    assert turns[1]["name"] == "weather"


def test_calls_without_any_of_what_may_be_missing(url: str, answerer: ScriptedAnswerer) -> None:
    call = {"type": None, "index": 0, "function": {"name": "weather"}}
    turns = given(url, answerer, {"role": "assistant", "tool_calls": [call]}, {"role": "tool"})
    assert turns[0]["tool_calls"][0]["function"] == {"name": "weather", "arguments": {}}
    assert (turns[1]["content"], turns[1]["tool_call_id"]) == ("", turns[0]["tool_calls"][0]["id"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"a": 1}, {"a": 1}), ("", {}), ("null", {}), (None, {}), ('{"a": [1, "', {"arguments": '{"a": [1, "'}),
        ([1], {"arguments": "[1]"}), (7, {"arguments": "7"}), ("{'a': 1}", {"arguments": "{'a': 1}"}),
    ],
)  # fmt: skip
def test_arguments_that_are_no_json_object(
    url: str, answerer: ScriptedAnswerer, arguments: Any, expected: dict[str, Any]
) -> None:
    call = {**USED, "function": {"name": "weather", "arguments": arguments}}
    turns = given(url, answerer, {"role": "assistant", "tool_calls": [call]}, RESULT)
    assert turns[0]["tool_calls"][0]["function"]["arguments"] == expected


def test_the_older_form_of_calls_and_custom_tools(url: str, answerer: ScriptedAnswerer) -> None:
    function = {"name": "weather", "arguments": '{"city": "Oslo"}'}
    turns = given(
        url,
        answerer,
        {"role": "assistant", "content": None, "function_call": function},
        {"role": "function", "name": "weather", "content": "rain"},
        {"role": "assistant", "tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "sh", "input": "ls"}}]},
        {
            "role": "tool",
            "tool_call_id": "c",
            "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
        },
    )
    assert turns[0]["tool_calls"][0]["function"] == {"name": "weather", "arguments": {"city": "Oslo"}}
    assert [turn["content"] for turn in turns] == ["", "rain", "", "a\nb"]
    assert turns[1]["role"] == "tool" and turns[1]["tool_call_id"] == turns[0]["tool_calls"][0]["id"]
    assert turns[2]["tool_calls"][0]["function"] == {"name": "sh", "arguments": {"input": "ls"}}


def test_what_the_lead_said_can_be_sent_back(client: OpenAI, answerer: ScriptedAnswerer) -> None:
    """Also an answer without text, and a call that a limit cut."""
    turns: list[Any] = [*HI]
    cut = '<tool_call>\n{"name": "weather", "arguments": {"ci'
    for script in ([("",)], [(cut,)], [("Hi.",)]):
        answerer.script = script
        answerer.summary = replace(SUMMARY, finish_reason="length")
        completion = client.chat.completions.create(model="any", messages=turns, tools=[WEATHER])
        turns += [completion.choices[0].message.model_dump(), *HI]
    client.chat.completions.create(model="any", messages=turns, tools=[WEATHER])


PREFILL: list[Any] = [*HI, {"role": "assistant", "content": "Once upon a"}]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"continue_final_message": True},
        {"continue_final_message": True, "add_generation_prompt": False},
        {"add_generation_prompt": False},
    ],
)
def test_an_answer_continues_the_last_message(url: str, answerer: ScriptedAnswerer, fields: dict[str, Any]) -> None:
    prompt = vocabulary().decode(asked(url, answerer, messages=PREFILL, **fields).prompt)
    assert prompt.endswith('"content": "Once upon a')
    rendered = post(url, "/apply-template", messages=PREFILL, **fields).json()["prompt"]
    assert rendered == prompt


@pytest.mark.parametrize("fields", [{"continue_final_message": False}, {"add_generation_prompt": True}])
def test_an_answer_that_is_a_turn_of_its_own(url: str, answerer: ScriptedAnswerer, fields: dict[str, Any]) -> None:
    question = asked(url, answerer, messages=PREFILL, **fields)
    assert conversation(question.prompt)["messages"] == PREFILL
    assert asked(url, answerer, continue_final_message=None, add_generation_prompt=True).prompt == vocabulary().chat(HI)


def test_contradictions_about_the_last_message(url: str) -> None:
    both = post(url, messages=PREFILL, continue_final_message=True, add_generation_prompt=True)
    assert error_of(both, 400)["param"] == "continue_final_message"
    calls = {"role": "assistant", "content": "", "tool_calls": [USED]}
    error = error_of(post(url, messages=[*HI, calls]), 400)
    assert error["param"] == "messages[1].tool_calls" and "send their results" in error["message"]


def test_structured_output(client: OpenAI, url: str, answerer: ScriptedAnswerer) -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    answerer.script = [('{"a"', ":1}")]
    parsed = client.chat.completions.create(
        model="any",
        messages=HI,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}},
    )
    assert json.loads(parsed.choices[0].message.content or "") == {"a": 1}
    grammar = answerer.next_asked().question.sampling.grammar
    assert '"integer"' in grammar
    assert grammar_of(url, answerer, json_schema=schema) == grammar
    assert grammar_of(url, answerer, response_format={"type": "json_object", "schema": schema}) == grammar
    assert grammar_of(url, answerer, TEXT, json_schema=schema) == grammar
    assert '"object"' in grammar_of(url, answerer, response_format={"type": "json_object"})
    assert grammar_of(url, answerer, response_format={"type": "text"}) == ""


def test_openai_client_sees_a_grammar_that_cannot_be(client: OpenAI, answerer: ScriptedAnswerer) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="any",
            messages=HI,
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nothing"}}},
        )
    assert caught.value.param == "response_format"


def test_a_call_of_an_empty_type_is_one_of_a_function(url: str, answerer: ScriptedAnswerer) -> None:
    """Some clients put the pieces of a stream together so that the type is lost."""
    call = {"id": "1", "type": "", "function": {"name": "f", "arguments": "{}"}}
    turns = [*HI, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "1", "content": "a"}]
    assert post(url, messages=turns).status_code == 200
