"""Requests to the HTTP side, and its answers taken apart."""

from __future__ import annotations

import json
from typing import Any

import requests

from duo.sampling.logprobs import Logprobs
from lead.api import Piece, Question
from tests.support.http import PATIENCE, ScriptedAnswerer, vocabulary

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
HI: list[Any] = [{"role": "user", "content": "Hi"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"$ref": "#/$defs/city"}},
            "required": ["city"],
            "$defs": {"city": {"type": "string"}},
        },
    },
}
CALL = '{"name": "weather", "arguments": {"city": "Köln"}}'


def post(url: str, path: str = CHAT, *, raw: bytes | None = None, **fields: Any) -> requests.Response:
    body = json.dumps(fields).encode() if raw is None else raw
    return requests.post(url + path, data=body, timeout=PATIENCE)


def error_of(response: requests.Response, status: int) -> dict[str, Any]:
    """The error object, whose shape is the same everywhere."""
    assert response.status_code == status, response.text
    body = response.json()
    assert body.keys() == {"error"}
    error: dict[str, Any] = body["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"] and "\n" not in error["message"]
    assert error["type"] == ("invalid_request_error" if status < 500 else "server_error")
    return error


def events(response: requests.Response) -> list[str]:
    """The data of server-sent events, to the end of the stream."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.endswith("\n\n")
    blocks = response.text.removesuffix("\n\n").split("\n\n")
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    return [block.removeprefix("data: ") for block in blocks]


def chunks(url: str, path: str, **fields: Any) -> list[dict[str, Any]]:
    response = post(url, path, stream=True, **fields)
    assert response.status_code == 200, response.text
    *events, done = [block.removeprefix("data: ") for block in response.text.removesuffix("\n\n").split("\n\n")]
    assert done == "[DONE]"
    return [json.loads(event) for event in events]


def asked(url: str, answerer: ScriptedAnswerer, path: str = CHAT, **fields: Any) -> Question:
    response = post(url, path, **{"messages": HI, **fields})
    assert response.status_code == 200, response.text
    return answerer.next_asked().question


def grammar_of(url: str, answerer: ScriptedAnswerer, path: str = CHAT, **fields: Any) -> str:
    given = {"messages": HI} if path == CHAT else {"prompt": "a"}
    response = post(url, path, **given, **fields)
    assert response.status_code == 200, response.text
    return answerer.next_asked().question.sampling.grammar


def pieces(text: str, top: int = 0) -> tuple[Piece, ...]:
    """A text as the tokens that it is made of, each with log probabilities."""
    tokens = vocabulary().encode_rendered(text)
    likeliest = [(token, -float(i)) for i, token in enumerate(tokens[:top])]
    return tuple(
        Piece(vocabulary().decode([token]), token=token, logprobs=Logprobs(-0.5, likeliest)) for token in tokens
    )
