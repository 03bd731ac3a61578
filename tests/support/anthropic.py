"""Requests in Anthropic's form, and its answers taken apart."""

from __future__ import annotations

import json
from typing import Any

import requests

from lead.http.anthropic.errors import KINDS
from tests.support.api import post
from tests.support.http import ScriptedAnswer, ScriptedAnswerer

MESSAGES = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
HI: list[Any] = [{"role": "user", "content": "Hi"}]
WEATHER: dict[str, Any] = {
    "name": "weather",
    "description": "The weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Köln"}}</tool_call>'


def say(url: str, path: str = MESSAGES, **fields: Any) -> requests.Response:
    """Posts a short question, unless the fields say another."""
    limit = {} if path == COUNT else {"max_tokens": 64}
    return post(url, path, **{"model": "any", "messages": HI, **limit, **fields})


def asked(url: str, answerer: ScriptedAnswerer, **fields: Any) -> ScriptedAnswer:
    """The answer to the question that the lead makes of this request."""
    response = say(url, **fields)
    assert response.status_code == 200, response.text
    return answerer.next_asked()


def fault(response: requests.Response, status: int, kind: str) -> str:
    """The message of an error object, whose shape is the same everywhere."""
    assert response.status_code == status, response.text
    body: dict[str, Any] = response.json()
    assert body.keys() == {"type", "error", "request_id"} and body["type"] == "error"
    assert body["error"].keys() == {"type", "message"}
    assert body["error"]["type"] == kind and kind in KINDS
    assert response.headers["request-id"] == body["request_id"]
    message: str = body["error"]["message"]
    assert message and "\n" not in message
    return message


def events(response: requests.Response) -> list[dict[str, Any]]:
    """The data of all events. Their names are the types of their data."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.endswith("\n\n")
    found = []
    for block in response.text.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found
