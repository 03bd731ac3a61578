"""Messages in all their forms, and the form that an answer must have."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.support.api import HI, TEXT, asked, grammar_of, post
from tests.support.http import ScriptedAnswerer, conversation


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
