"""The fields of a request: what they ask of the model, and which are refused."""

from __future__ import annotations

from typing import Any

import pytest

from duo.sampling.json_schema import MAX_PATTERNS
from lead.api import Question
from tests.support.api import error_of, post
from tests.support.http import ScriptedAnswerer, conversation

PATH = "/v1/responses"
MANY, OTHERS = (
    {"type": "additional_tools", "tools": [{"type": "function", "name": f"{letter}{i}"} for i in range(65)]}
    for letter in "ab"
)


def taking(schema: dict[str, Any]) -> dict[str, Any]:
    """A tool whose parameters have this schema."""
    parameters = {"type": "object", "properties": {"x": schema}}
    return {"type": "function", "name": "take", "parameters": parameters}


BAD: dict[str, Any] = {"type": "nothing"}
COMPLEX: dict[str, Any] = {"anyOf": [{"type": "string", "pattern": f"a{i}"} for i in range(MAX_PATTERNS + 1)]}
READ: dict[str, Any] = {"type": "function", "name": "read", "parameters": {"type": "object", "maxProperties": 0}}


def asked(url: str, answerer: ScriptedAnswerer, **fields: Any) -> Question:
    response = post(url, PATH, **{"input": "Hi", **fields})
    assert response.status_code == 200, response.text
    return answerer.next_asked().question


def test_instructions_stand_first(url: str, answerer: ScriptedAnswerer) -> None:
    question = asked(url, answerer, input=[{"role": "user", "content": "Hi"}], instructions="Be brief")
    assert conversation(question.prompt)["messages"] == [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "Hi"},
    ]


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"max_output_tokens": 20}, {"max_tokens": 20}),
        ({"max_output_tokens": -1}, {"max_tokens": None}),
        ({"stop": "END"}, {"stop": ("END",)}),
        ({"top_logprobs": 2}, {"top_logprobs": 2}),
        ({"include": ["message.output_text.logprobs"]}, {"top_logprobs": 0}),
        ({"include": ["reasoning.encrypted_content"]}, {"top_logprobs": None}),
    ],
)
def test_limits(url: str, answerer: ScriptedAnswerer, fields: dict[str, Any], found: dict[str, Any]) -> None:
    question = asked(url, answerer, **fields)
    assert {name: getattr(question, name) for name in found} == found


def test_sampling_with_llama_servers_fields(url: str, answerer: ScriptedAnswerer) -> None:
    fields = {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1, "seed": 3}
    sampling = asked(url, answerer, **fields).sampling
    assert {name: getattr(sampling, name) for name in fields} == fields


@pytest.mark.parametrize(
    ("form", "follows"),
    [
        ({"type": "json_object"}, True),
        ({"type": "json_schema", "name": "a", "strict": True, "schema": {"type": "object", "maxProperties": 0}}, True),
        ({"type": "text"}, False),
        (None, False),
    ],
)
def test_the_form_of_the_text(url: str, answerer: ScriptedAnswerer, form: Any, follows: bool) -> None:
    question = asked(url, answerer, text={"format": form, "verbosity": "low"})
    assert bool(question.sampling.grammar) is follows


def test_tools_in_the_prompt_and_in_the_grammar(url: str, answerer: ScriptedAnswerer) -> None:
    question = asked(url, answerer, tools=[READ], tool_choice={"type": "function", "name": "read"})
    (tool,) = conversation(question.prompt)["tools"]
    assert tool["type"] == "function" and tool["function"]["name"] == "read"
    assert "read" in question.sampling.grammar
    question = asked(url, answerer, tools=[READ], tool_choice="none")
    assert not conversation(question.prompt)["tools"] and not question.sampling.grammar


def test_tools_among_the_items(url: str, answerer: ScriptedAnswerer) -> None:
    items = [{"type": "additional_tools", "role": "developer", "tools": [READ]}, {"role": "user", "content": "Hi"}]
    question = asked(url, answerer, input=[items[0], *items])
    assert [tool["function"]["name"] for tool in conversation(question.prompt)["tools"]] == ["read"]


@pytest.mark.parametrize(("path", "schema"), [(PATH, BAD), (PATH, COMPLEX), (f"{PATH}/input_tokens", COMPLEX)])
def test_schemas_that_are_refused_are_named_by_their_field(url: str, path: str, schema: dict[str, Any]) -> None:
    form = {"type": "json_schema", "name": "a", "schema": schema}
    error = error_of(post(url, path, input="Hi", text={"format": form}), 400)
    assert error["param"] == "text.format"
    error = error_of(post(url, path, input="Hi", tools=[taking(schema)], tool_choice="required"), 400)
    assert error["param"] == "tools"


HI_AND: list[Any] = [{"role": "user", "content": "Hi"}]
SAID: dict[str, Any] = {"type": "message", "role": "assistant", "content": "The answer is ("}
THOUGHT: dict[str, Any] = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Well"}]}
CALL: dict[str, Any] = {"type": "function_call", "call_id": "a", "name": "b", "arguments": "{}"}


@pytest.mark.parametrize(
    ("items", "continues"),
    [
        ([SAID], False),
        ([{**SAID, "status": "completed"}], False),
        ([{**SAID, "status": "incomplete"}], True),
        ([{**SAID, "status": "in_progress"}], True),
        ([{**THOUGHT, "status": "incomplete"}], True),
        ([{**SAID, "status": "incomplete"}, *HI_AND], False),
        ([CALL, {**SAID, "status": "incomplete"}], False),
    ],
)
def test_only_an_unfinished_item_is_continued(
    url: str, answerer: ScriptedAnswerer, items: list[Any], continues: bool
) -> None:
    """At OpenAI an answer is always a message of its own. In vLLM it goes on with an item that is not completed."""
    assert asked(url, answerer, input=[*HI_AND, *items]).continues is continues


def test_what_agents_send_beside(url: str, answerer: ScriptedAnswerer) -> None:
    """A request as Codex writes it."""
    parts = [{"type": "input_text", "text": "Hi"}]
    fields: dict[str, Any] = {
        "model": "any",
        "instructions": "You are an agent",
        "input": [
            {"type": "message", "role": "developer", "content": parts},
            {"type": "message", "role": "user", "content": parts},
        ],
        "tools": [READ, {"type": "web_search", "external_web_access": False}, {"type": "image_generation"}],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning": {"effort": "medium", "summary": "auto"},
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "019a",
        "text": {"verbosity": "low"},
        "client_metadata": {"x": "y"},
    }
    response = post(url, PATH, **fields)
    assert response.status_code == 200, response.text
    body = response.json()
    assert body["store"] is False and body["reasoning"]["effort"] == "medium" and len(body["tools"]) == 3


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({}, "input", "input is missing"),
        ({"input": []}, "input", "there is nothing to answer"),
        ({"input": 1}, "input", "neither a text nor a list of items"),
        ({"input": [{"type": "x"}]}, "input[0].type", "knows no such item"),
        ({"messages": [{"role": "user", "content": "Hi"}]}, "messages", "it is called input here"),
        ({"input": "a", "response_format": {"type": "json_object"}}, "response_format", "text.format"),
        ({"input": "a", "background": True}, "background", "while the client waits"),
        ({"input": "a", "conversation": "conv_1"}, "conversation", "previous_response_id"),
        ({"input": "a", "prompt": {"id": "pmpt_1"}}, "prompt", "keeps no prompt templates"),
        ({"input": "a", "n": 2}, "n", "one answer"),
        ({"input": "a", "moderation": {"model": "x"}}, "moderation", "moderates nothing"),
        ({"input": "a", "include": ["x"]}, "include[0]", "input should be"),
        ({"input": "a", "text": {"format": {"type": "json_schema"}}}, "text.format.schema", "is missing"),
        ({"input": "a", "text": {"format": {"type": "xml"}}}, "text.format.type", "'text', 'json_object'"),
        ({"input": "a", "reasoning": {"effort": "huge"}}, "reasoning.effort", "'none', 'minimal'"),
        ({"input": "a", "tools": {}}, "tools", "list"),
        ({"input": "a", "tools": ["x"]}, "tools[0]", "dictionary"),
        ({"input": "a", "tools": [READ, READ]}, "tools", "two have the name"),
        ({"input": [MANY, OTHERS, {"role": "user", "content": "a"}]}, "tools", "130 are too many"),
        ({"input": "a", "mirostat": 2}, "mirostat", "use temperature"),
        ({"input": "a", "n_probs": 2}, "n_probs", "top_logprobs"),
        ({"input": "a", "guided_json": {}}, "guided_json", "text.format"),
        ({"input": "a", "tool_choice": "required"}, "tool_choice", "there are no tools"),
        ({"input": "a", "tool_choice": {"type": "function", "name": "x"}}, "tool_choice", "there are no tools"),
        ({"input": "a", "max_output_tokens": 0}, "max_output_tokens", "at least 1"),
        ({"input": "a", "metadata": {"a": 1}}, "metadata.a", "string"),
        ({"input": "a", "metadata": {str(i): "" for i in range(17)}}, "metadata", "16"),
        ({"input": "a", "temperature": "hot"}, "temperature", "number"),
        ({"input": "a", "truncation": "middle"}, "truncation", "'auto' or 'disabled'"),
    ],
)
def test_what_is_refused(url: str, fields: dict[str, Any], param: str, said: str) -> None:
    error = error_of(post(url, PATH, **fields), 400)
    assert error["param"] == param and said in error["message"]
