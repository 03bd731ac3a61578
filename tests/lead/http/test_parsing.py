"""Wrong requests: one line each, which names the field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lead.http.endpoints import ENDPOINTS
from lead.http.openai.chat import ChatRequest
from lead.http.openai.completions import CompletionRequest
from lead.http.openai.infill import InfillRequest
from lead.http.openai.llama_duo import MessagesRequest
from lead.http.parsing import Body, ModelField, names_of
from lead.http.responses.fields import ResponsesRequest
from tests.support.api import HI, error_of, post
from tests.support.http import ScriptedAnswerer

IMAGE = [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "data:"}}]
CALL: dict[str, Any] = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}


def bad_tool() -> dict[str, Any]:
    return {"function": {"name": "b", "parameters": {"type": "object", "properties": {"x": {"type": "nothing"}}}}}


def allowed(mode: str, *names: str) -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


WRONG: list[tuple[dict[str, Any], str, str]] = [
    # What the lead cannot do.
    ({"functions": [{}]}, "functions", "use tools"),
    ({"function_call": {"name": "f"}}, "function_call", "use tools"),
    ({"modalities": ["text", "audio"]}, "modalities", "text"),
    ({"add_generation_prompt": False}, "add_generation_prompt", "a turn of its own"),
    ({"continue_final_message": True}, "continue_final_message", "the last message is the user's"),
    ({"audio": {"voice": "alloy"}}, "audio", "text"),
    ({"grammar": "root ::= x"}, "grammar", "response_format"),
    ({"guided_regex": "a+"}, "guided_regex", "response_format"),
    ({"messages": [{"role": "user", "content": IMAGE}]}, "messages[0].content", "image_url"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content", "not a text part"),
    ({"messages": [{"role": "user", "content": [7]}]}, "messages[0].content", "7"),
    (
        {"messages": [{"role": "user", "content": [{"type": "refusal", "refusal": "No."}]}]},
        "messages[0].content",
        "ref",
    ),
    ({"messages": [{"role": "user", "refusal": "No."}]}, "messages[0]", "content is missing"),
    ({"messages": [{"role": "assistant", "refusal": 7}]}, "messages[0].refusal", "7"),
    ({"messages": [{"role": "user", "tool_calls": [CALL]}]}, "messages[0]", "assistant's"),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]},
        "messages[0].tool_calls[0].function",
        "missing",
    ),
    (
        {"messages": [*HI, {"role": "assistant", "tool_calls": [CALL, {"function": {"name": ""}}]}]},
        "messages[1].tool_calls[1].function.name",
        "at least 1",
    ),
    ({"messages": [*HI, {"role": "assistant", "tool_calls": {"id": "1"}}]}, "messages[1].tool_calls", "list"),
    ({"messages": [*HI, {"role": "assistant", "tool_calls": [CALL]}]}, "messages[1].tool_calls", "send their results"),
    ({"messages": [*HI, {"role": "assistant", "content": IMAGE}]}, "messages[1].content", "image_url"),
    # Tools.
    ({"tools": [{"type": "function"}]}, "tools[0].function", "missing"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type", "web_search"),
    ({"tools": [{"type": "custom", "custom": {"name": "a"}}]}, "tools[0].type", "custom tool"),
    ({"tools": [tool("two words")]}, "tools[0].function.name", "two words"),
    ({"tools": [tool("a"), tool("a")]}, "tools", "two have the name"),
    *[
        (
            {"tools": [tool("a"), {"function": {"name": "b", "parameters": {"type": kind}}}]},
            "tools[1].function.parameters",
            f'tool "b" are of type {json.dumps(kind)}: parameters must be of type object',
        )
        for kind in ("string", ["string", "null"], 7)
    ],
    ({"tool_choice": "required"}, "tool_choice", "no tools"),
    ({"tools": [tool("a")], "tool_choice": "perhaps"}, "tool_choice", "perhaps"),
    ({"tools": [tool("a")], "tool_choice": {"name": "a"}}, "tool_choice", "neither"),
    ({"tools": [tool("a")], "tool_choice": {"type": "custom", "custom": {"name": "a"}}}, "tool_choice", "custom tool"),
    ({"tools": [tool("a")], "tool_choice": allowed("auto", "b")}, "tool_choice", '"b"'),
    ({"tools": [tool("a")], "tool_choice": allowed("auto")}, "tool_choice", "names no tools"),
    ({"tools": [tool("a")], "tool_choice": allowed("never", "a")}, "tool_choice", "neither"),
    ({"tools": [tool("a")], "tool_choice": {"type": "function", "function": {"name": "b"}}}, "tool_choice", "no tool"),
    # Structure.
    ({"response_format": {"type": "xml"}}, "response_format.type", "xml"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema", "missing"),
    ({"response_format": {"type": "json_object"}, "json_schema": {"type": "object"}}, "json_schema", "one of them"),
    ({"json_schema": {"type": "nothing"}}, "json_schema", "nothing"),
    ({"tools": [bad_tool()], "tool_choice": "required"}, "tools", "nothing"),
    # How many, and where to end.
    ({"n": 0}, "n", "n is 0"),
    ({"n": 129}, "n", "128"),
    ({"n": "2"}, "n", '"2"'),
    ({"stop": 5}, "stop", "5"),
    ({"stop": ["a", ""]}, "stop[1]", '""'),
    ({"stop": ["a"] * 33}, "stop", "32"),
    ({"stop": "a" * 257}, "stop[0]", "256"),
    ({"stop_token_ids": 7}, "stop_token_ids", "7"),
    ({"stop_token_ids": ["7"]}, "stop_token_ids[0]", '"7"'),
    ({"stop_token_ids": [-1]}, "stop_token_ids[0]", "-1"),
    ({"stop_token_ids": [1 << 31]}, "stop_token_ids[0]", "2147483648"),
    ({"stop_token_ids": [1] * 33}, "stop_token_ids", "32"),
    ({"top_logprobs": 3}, "top_logprobs", "logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "20"),
    ({"logprobs": 1}, "logprobs", "1"),
    # Thinking.
    ({"reasoning_effort": "much"}, "reasoning_effort", "much"),
    ({"reasoning_format": "xml"}, "reasoning_format", "xml"),
    ({"thinking_budget_tokens": -2}, "thinking_budget_tokens", "-2"),
    ({"thinking": {"type": "maybe"}}, "thinking.type", "maybe"),
    ({"reasoning": {"max_tokens": "7"}}, "reasoning.max_tokens", "7"),
    # Wrong types.
    ({"messages": "Hi"}, "messages", "list"),
    ({"messages": ["Hi"]}, "messages[0]", "Hi"),
    ({"messages": [{"role": "user"}]}, "messages[0]", "content is missing"),
    ({"messages": [{"content": "Hi"}]}, "messages[0].role", "missing"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0]", "content is missing"),
    ({"messages": [{"role": "robot", "content": "Hi"}]}, "messages[0].role", "robot"),
    ({"messages": []}, "messages", "at least 1"),
    ({"messages": None}, "messages", "list"),
    ({"temperature": "hot"}, "temperature", "hot"),
    ({"temperature": True}, "temperature", "true"),
    ({"top_k": 2.5}, "top_k", "2.5"),
    ({"seed": "7"}, "seed", '"7"'),
    ({"max_tokens": [1]}, "max_tokens", "[1]"),
    ({"stream": "yes"}, "stream", "yes"),
    ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage", "1"),
    ({"ignore_eos": 0}, "ignore_eos", "0"),
    ({"logit_bias": [1]}, "logit_bias", "[1]"),
    ({"logit_bias": {"1": "x"}}, "logit_bias.1", "x"),
    ({"logit_bias": {"one": 1}}, "logit_bias", "one"),
    ({"logit_bias": {"-1": 1}}, "logit_bias", "-1"),
    ({"logit_bias": {"٣": 1}}, "logit_bias", "٣"),
    ({"logit_bias": {"9" * 5000: 1}}, "logit_bias", "not a token id"),
    # Out of range.
    ({"temperature": -0.1}, "temperature", "-0.1"),
    ({"top_p": -0.1}, "top_p", "top_p is -0.1"),
    ({"top_p": 1.5}, "top_p", "1.5"),
    ({"top_k": -2}, "top_k", "-2"),
    ({"min_p": 2}, "min_p", "2"),
    ({"repeat_penalty": 0}, "repeat_penalty", "0"),
    ({"presence_penalty": 1e9}, "presence_penalty", "1000000000"),
    ({"seed": 1 << 64}, "seed", str(1 << 64)),
    ({"max_tokens": 0}, "max_tokens", "at least 1"),
    ({"max_completion_tokens": 0}, "max_completion_tokens", "at least 1"),
    ({"max_tokens": -2}, "max_tokens", "-2"),
    ({"max_tokens": 1 << 31}, "max_tokens", str(1 << 31)),
]


@pytest.mark.parametrize(("fields", "param", "fragment"), WRONG)
def test_wrong_requests(
    url: str, answerer: ScriptedAnswerer, fields: dict[str, Any], param: str, fragment: str
) -> None:
    error = error_of(post(url, **{"messages": HI, **fields}), 400)
    assert error["param"] == param
    assert fragment in error["message"] and len(error["message"]) < 250
    assert answerer.asked.empty()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"hello",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"messages":[{"role":"user","content":"\\ud800"}]}',
        b'{"messages":[{"role":"user","content":"a"}],"temperature":NaN}',
        b'{"messages":[{"role":"user","content":"a"}],"seed":' + b"9" * 5000 + b"}",
    ],
)
def test_bodies_that_are_no_json_object(url: str, answerer: ScriptedAnswerer, raw: bytes) -> None:
    assert "JSON" in error_of(post(url, raw=raw), 400)["message"]


def test_a_long_value_makes_a_short_message(url: str, answerer: ScriptedAnswerer) -> None:
    assert len(error_of(post(url, messages=HI, temperature="x" * 100_000), 400)["message"]) < 250


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("temprature", "temperature"),
        ("max_token", "max_tokens"),
        ("tool_choise", "tool_choice"),
        ("chat_template_args", "chat_template_kwargs"),
        ("reasoning_efort", "reasoning_effort"),
        ("Temperature", "temperature"),
    ],
)
def test_misspelt_fields_are_refused(url: str, answerer: ScriptedAnswerer, name: str, meant: str) -> None:
    fields: dict[str, Any] = {"messages": HI, name: None}
    error = error_of(post(url, **fields), 400)
    assert error["param"] == name and name in error["message"] and f"did you mean {meant}?" in error["message"]
    assert answerer.asked.empty()


def test_unknown_fields_are_taken_and_named_once(
    url: str, answerer: ScriptedAnswerer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "lead.http")
    fields: dict[str, Any] = {
        "messages": HI,
        "safety_identifier": "me",
        "models": ["a"],
        "cache_prompt": True,
        "\n": 1,
        "of_this_test": {},
    }
    for _ in range(2):
        assert post(url, **fields).status_code == 200
    said = [record.getMessage() for record in caplog.records if record.name == "lead.http"]
    assert sum("of_this_test" in line for line in said) == 1 and not any("\n" in line for line in said)


@pytest.mark.parametrize("shape", [it.asked for it in ENDPOINTS if it.asked is not None])
def test_every_request_may_name_a_model(shape: type[Body]) -> None:
    """With several models, the name says who is asked, in every body that is handed on."""
    assert issubclass(shape, ModelField)


@pytest.mark.parametrize("shape", [ChatRequest, CompletionRequest, InfillRequest, MessagesRequest, ResponsesRequest])
def test_what_is_refused_names_no_field_that_is_not_there(shape: type[Body]) -> None:
    """What a class above refuses, a request below may know, and only then others are sent there."""
    names = names_of(shape)
    assert not set(names.cannot) & set(names.known)
    assert {"mirostat", "min_tokens", "dry_multiplier", "stop_sequences", "guided_json", "grammar"} <= set(names.cannot)
    assert "models" in names.vendors
    for name, (_, why) in names.cannot.items():
        for field in ("response_format", "logprobs"):
            there = field in names.known or "/v1/" in why
            assert there or field not in why.replace("top_logprobs", ""), name


def test_very_many_unknown_fields_take_no_time(url: str, answerer: ScriptedAnswerer) -> None:
    fields: dict[str, Any] = {f"temperature{number:0100}": number for number in range(20_000)}
    assert post(url, messages=HI, **fields).status_code == 200
