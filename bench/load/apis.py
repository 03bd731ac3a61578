"""One question in each of the APIs that answer conversations, streamed and whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import requests

PATIENCE = 120.0
"""Seconds without a byte until an answer is given up."""


class Api(NamedTuple):
    """body: of a question and the most tokens of its answer. whole: the text of an answer that is not streamed.

    piece: the text in an event of a stream. over: whether the event is the one that ends an answer.
    """

    path: str
    body: Callable[[str, int], Mapping[str, Any]]
    whole: Callable[[Any], str]
    piece: Callable[[Any], str]
    over: Callable[[Any], bool]


def _said(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


CHAT = Api(
    "/v1/chat/completions",
    lambda question, tokens: {"messages": _said(question), "max_tokens": tokens},
    lambda answer: str(answer["choices"][0]["message"]["content"]),
    lambda event: event["choices"][0]["delta"].get("content") or "" if event["choices"] else "",
    lambda event: bool(event["choices"] and event["choices"][0]["finish_reason"]),
)
MESSAGES = Api(
    "/v1/messages",
    lambda question, tokens: {"messages": _said(question), "max_tokens": tokens},
    lambda answer: "".join(block["text"] for block in answer["content"]),
    lambda event: event["delta"]["text"] if event["type"] == "content_block_delta" else "",
    lambda event: bool(event["type"] == "message_stop"),
)
RESPONSES = Api(
    "/v1/responses",
    lambda question, tokens: {"input": question, "max_output_tokens": tokens},
    lambda answer: "".join(part["text"] for item in answer["output"] for part in item["content"]),
    lambda event: event["delta"] if event["type"] == "response.output_text.delta" else "",
    lambda event: event["type"] in ("response.completed", "response.incomplete"),
)

INFILL = Api(
    "/infill",
    lambda question, tokens: {"input_prefix": question, "input_suffix": "\n    return name\n", "n_predict": tokens},
    lambda answer: str(answer["content"]),
    lambda event: str(event["content"]),
    lambda event: bool(event["stop"]),
)


def ask(url: str, api: Api, question: str, tokens: int, fields: Mapping[str, Any], hang_up: bool = False) -> str | None:
    """The text of an answer; None after a `hang_up` in the middle of a stream.

    Raises requests.ConnectionError for a busy lead and for a stream that breaks off, RuntimeError for other refusals.
    """
    body = {**api.body(question, tokens), **fields}
    with requests.post(f"{url}{api.path}", json=body, stream=body["stream"], timeout=PATIENCE) as response:
        if response.status_code == 503:
            raise requests.ConnectionError("busy or loading")
        if response.status_code != 200:
            raise RuntimeError(f"{response.status_code}: {response.text}")
        if not body["stream"]:
            return api.whole(response.json())
        text, over, pieces = "", False, 0
        for event in _events(response):
            piece = api.piece(event)
            text, over, pieces = text + piece, over or api.over(event), pieces + bool(piece)
            if hang_up and pieces == 2:
                return None
    if not over:
        raise requests.ConnectionError("the stream broke off")
    return text


def _events(response: requests.Response) -> Iterator[Any]:
    # Read line by line: a larger chunk size would hold text back.
    for line in response.iter_lines(chunk_size=1):
        if line.startswith(b"data: {"):
            event = json.loads(line[6:])
            if event.get("error"):
                raise RuntimeError(event["error"]["message"])
            yield event
