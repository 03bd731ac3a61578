"""Errors of what all APIs share name the field of the API that asked."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.api import HI, post
from tests.support.http import ScriptedAnswerer

REFUSES = "{{ raise_exception('only on Sundays') }}"
BAD: dict[str, Any] = {"type": "object", "properties": {"x": {"type": "nothing"}}}
CHAT, RESPONSES, CLAUDE = "/v1/chat/completions", "/v1/responses", "/v1/messages"
CHAT_TOOLS = {"tools": [{"type": "function", "function": {"name": "f", "parameters": BAD}}]}
CLAUDE_TOOLS = {"tools": [{"name": "f", "input_schema": BAD}]}
RESPONSES_TOOLS = {"tools": [{"type": "function", "name": "f", "parameters": BAD}]}
FORM = {"type": "json_schema", "name": "a", "schema": BAD}
GOOD_FORM = {"type": "json_schema", "name": "a", "schema": {"type": "object"}}


def refused(url: str, path: str, fields: dict[str, Any]) -> tuple[str, str]:
    """The field and the message."""
    conversation = {"input": "Hi"} if path.startswith(RESPONSES) else {"messages": HI, "max_tokens": 8}
    response = post(url, path, **conversation, **fields)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    if path.startswith(CLAUDE):
        field, _, message = error["message"].partition(": ")
        return field, message
    return error["param"], error["message"]


@pytest.mark.parametrize(
    ("path", "field"),
    [
        (CHAT, "messages"),
        (RESPONSES, "input"),
        (f"{RESPONSES}/input_tokens", "input"),
        (CLAUDE, "messages"),
        (f"{CLAUDE}/count_tokens", "messages"),
    ],
)
def test_a_template_that_refuses(url: str, answerer: ScriptedAnswerer, path: str, field: str) -> None:
    answerer.template = REFUSES
    found, message = refused(url, path, {})
    assert found == field and "chat template refuses: only on Sundays" in message


@pytest.mark.parametrize(
    ("path", "fields", "field"),
    [
        (CHAT, {"response_format": {"type": "json_schema", "json_schema": {"schema": BAD}}}, "response_format"),
        (CHAT, {**CHAT_TOOLS, "tool_choice": "required"}, "tools"),
        (CHAT, {**CHAT_TOOLS, "tool_choice": "required", "json_schema": {"type": "object"}}, "tools"),
        (RESPONSES, {"text": {"format": FORM}}, "text.format"),
        (RESPONSES, {**RESPONSES_TOOLS, "tool_choice": "required"}, "tools"),
        (RESPONSES, {**RESPONSES_TOOLS, "tool_choice": "required", "text": {"format": GOOD_FORM}}, "tools"),
        (
            RESPONSES,
            {**RESPONSES_TOOLS, "tool_choice": {"type": "function", "name": "f"}, "text": {"format": GOOD_FORM}},
            "tools",
        ),
        (CLAUDE, {"output_config": {"format": {"type": "json_schema", "schema": BAD}}}, "output_config.format"),
        (CLAUDE, {"output_format": {"type": "json_schema", "schema": BAD}}, "output_format"),
        (CLAUDE, {**CLAUDE_TOOLS, "tool_choice": {"type": "any"}}, "tools"),
        (
            CLAUDE,
            {
                **CLAUDE_TOOLS,
                "tool_choice": {"type": "any"},
                "output_format": {"type": "json_schema", "schema": {"type": "object"}},
            },
            "tools",
        ),
    ],
)
def test_a_schema_that_cannot_be_followed(
    url: str, answerer: ScriptedAnswerer, path: str, fields: dict[str, Any], field: str
) -> None:
    found, message = refused(url, path, fields)
    assert found == field and "nothing" in message
