"""What a request of Anthropic's Messages API asks for, and what it may not ask for."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from lead.chat.conversation import Conversation, Thinking
from lead.http.anthropic.fields import AnthropicCountRequest, AnthropicRequest
from lead.http.defaults import SamplingFlags
from lead.http.site import Options
from tests.support.anthropic import COUNT, HI, WEATHER, asked, fault, say
from tests.support.http import SUMMARY, ScriptedAnswerer, conversation, serving, vocabulary

SAID: dict[str, Any] = {"role": "assistant", "content": "The answer is ("}


def read(**fields: Any) -> Conversation:
    return AnthropicCountRequest.model_validate({"messages": HI, **fields}).conversation()


@pytest.mark.parametrize(
    ("choice", "meaning"),
    [
        (None, ("auto", "", None)),
        ({"type": "auto"}, ("auto", "", None)),
        ({"type": "auto", "disable_parallel_tool_use": True}, ("auto", "", False)),
        ({"type": "any"}, ("required", "", None)),
        ({"type": "any", "name": "weather"}, ("required", "", None)),
        ({"type": "none"}, ("none", "", None)),
        ({"type": "tool", "name": "weather"}, ("required", "weather", None)),
        ({"type": "tool", "name": "weather", "disable_parallel_tool_use": True}, ("required", "weather", False)),
    ],
)
def test_the_choice_of_tools(choice: Any, meaning: tuple[str, str, bool | None]) -> None:
    found = read(tools=[WEATHER], tool_choice=choice)
    assert (found.choice, found.named, found.parallel) == meaning
    assert [(tool.name, tool.parameters) for tool in found.tools] == [("weather", WEATHER["input_schema"])]


@pytest.mark.parametrize(
    ("fields", "meaning"),
    [
        ({}, Thinking()),
        ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, Thinking(True, "", 2048)),
        ({"thinking": {"type": "disabled"}}, Thinking(False)),
        ({"thinking": {"type": "adaptive", "display": "summarized"}}, Thinking(True)),
        ({"output_config": {"effort": "low"}}, Thinking(effort="low")),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}, Thinking(True, "max")),
    ],
)
def test_thinking(fields: dict[str, Any], meaning: Thinking) -> None:
    assert read(**fields).thinking == meaning


def test_the_system_prompt_is_text_or_blocks() -> None:
    blocks = [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "b"}]
    assert read(system=blocks).messages == [{"role": "system", "content": "a\nb"}, *HI]
    assert read(system="a").messages[0] == {"role": "system", "content": "a"}
    assert read(system="").messages == read(system=[]).messages == read(system=None).messages == HI


def test_what_is_for_the_vendor_alone_leaves_the_cache_alone() -> None:
    """The value changes with every request."""
    bill = {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.0; cch=a1b2c;"}
    assert read(system=[bill, {"type": "text", "text": "a"}]).messages == read(system="a").messages


def test_a_last_message_of_the_assistant_is_continued() -> None:
    found = read(messages=[*HI, SAID])
    assert found.continues and found.messages[-1] == SAID
    nothing: list[Any] = ["", []]
    for empty in nothing:
        found = read(messages=[*HI, {"role": "assistant", "content": empty}])
        prompt = vocabulary().render(found.messages, continues=found.continues)
        assert json.loads(prompt)["messages"] == HI, "an empty one counts as not there"
    assert not read().continues


def test_of_a_request(url: str, answerer: ScriptedAnswerer) -> None:
    """Unknown fields are taken. So are the vendor's that change no answer."""
    fields: dict[str, Any] = {
        "metadata": {"user_id": "a"},
        "service_tier": "auto",
        "cache_control": {"type": "ephemeral"},
        "context_management": {"edits": []},
        "speed": "fast",
        "something_new": {"a": 1},
        "stop_sequences": ["\n"],
        "tools": [{**WEATHER, "type": "custom", "cache_control": {"type": "ephemeral"}, "strict": True}],
        "mcp_servers": [],
        "container": None,
    }
    answer = asked(url, answerer, **fields)
    assert answer.question.stop == ("\n",)
    assert len(conversation(answer.question.prompt)["tools"]) == 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": -2}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"system": 5}, "system"),
        ({"system": [{"type": "image"}]}, "system[0]: an image cannot be read"),
        ({"stop": ["a"]}, "stop is ["),
        ({"stop_sequence": ["a"]}, "stop_sequence: there is no field"),
        ({"stop_sequences": [5]}, "stop_sequences[0] is 5"),
        ({"stop_sequences": [""]}, "stop_sequences[0]"),
        ({"n": 2}, "n is 2"),
        ({"mirostat": 2}, "mirostat is 2"),
        ({"min_tokens": 5}, "min_tokens is 5"),
        ({"response_format": {"type": "json_object"}}, 'response_format is {"type": "json_object"}: use output_config'),
        ({"grammar": "root ::= x"}, 'grammar is "root ::= x": use output_config.format'),
        ({"mcp_servers": [{"url": "http://a"}]}, "mcp_servers is "),
        ({"compaction": {"instructions": "short"}}, "compaction is "),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens is missing"),
        ({"thinking": {"type": "some"}}, "thinking.type is "),
        ({"output_config": {"effort": "huge"}}, "output_config.effort is "),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema is missing"),
        (
            {
                "output_config": {"format": {"type": "json_schema", "schema": {}}},
                "output_format": {"type": "json_schema", "schema": {}},
            },
            "output_format and output_config.format",
        ),
        ({"output_format": {"type": "json_schema", "schema": {"type": 5}}}, "output_format: "),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type: "),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type: "),
        ({"tools": [{"name": "weather"}]}, "tools[0].input_schema is missing"),
        ({"tools": [{**WEATHER, "name": "a b"}]}, "tools[0].name is "),
        ({"tools": [{**WEATHER, "input_schema": {"type": "array"}}]}, "tools[0].input_schema: "),
        ({"tools": [WEATHER, WEATHER]}, "tools: two have the name"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tool_choice": "auto"}, "tool_choice is "),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool"}}, "tool_choice.name is missing"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "time"}}, "tool_choice: no tool"),
        ({"messages": []}, "messages"),
        (
            {
                "messages": [
                    *HI,
                    {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "b", "input": {}}]},
                ]
            },
            "messages[1]: it calls tools",
        ),
    ],
)
def test_of_a_request_that_is_refused(url: str, answerer: ScriptedAnswerer, fields: dict[str, Any], words: str) -> None:
    assert fault(say(url, **fields), 400, "invalid_request_error").startswith(words)
    assert answerer.asked.empty()


def test_what_a_limit_of_the_lead_ends_is_no_full_context() -> None:
    """`-n` limits a request whose own limit is -1."""
    answerer = ScriptedAnswerer()
    answerer.summary = replace(SUMMARY, finish_reason="length", completion_tokens=20)
    with serving(answerer, Options(sampling=SamplingFlags(max_tokens=20))) as url:
        assert say(url, max_tokens=-1).json()["stop_reason"] == "max_tokens"


def test_only_a_count_needs_no_limit(url: str, answerer: ScriptedAnswerer) -> None:
    assert "max_tokens" in AnthropicRequest.model_json_schema()["required"]
    assert say(url, COUNT).status_code == 200
    assert fault(say(url, max_tokens=None), 400, "invalid_request_error").startswith("max_tokens")
