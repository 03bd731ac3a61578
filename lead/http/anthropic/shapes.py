"""What Anthropic's Messages API answers: the message, the events of a stream, and the count of tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, RootModel
from pydantic_core import from_json

from lead.api import Summary
from lead.chat.parser import Finish
from lead.chat.parts import Call, Part, Text, Thought
from lead.http.anthropic.blocks import CALL_ID

SIGNATURE = "bm90IHNpZ25lZCBieSB0aGUgbGVhZA=="
"""The signature of all thinking. The lead checks none; clients want one and send it back."""

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"]


class TextContent(BaseModel):
    type: Literal["text"]
    text: str


class ThinkingContent(BaseModel):
    type: Literal["thinking"]
    thinking: str
    signature: str


class ToolUseContent(BaseModel):
    """A call of a tool. If the limit on tokens ended the answer within the call, `input` is what there is of it."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


Content = TextContent | ThinkingContent | ToolUseContent


class AnthropicOutputDetails(BaseModel):
    thinking_tokens: int


class AnthropicUsage(BaseModel):
    """`input_tokens` counts the tokens of the prompt that were computed, the others those that the cache held."""

    input_tokens: int
    cache_read_input_tokens: int
    cache_creation_input_tokens: int
    output_tokens: int
    output_tokens_details: AnthropicOutputDetails


class AnthropicMessage(BaseModel):
    """Body of an answer. `stop_sequence`: which one ended it, if `stop_reason` says that one did."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[Content]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: AnthropicUsage


class AnthropicTokenCount(BaseModel):
    """Tokens of the prompt."""

    input_tokens: int


class MessageStart(BaseModel):
    """The first event. Its usage is a first guess: how much the cache holds is not known yet."""

    type: Literal["message_start"]
    message: AnthropicMessage


class BlockStart(BaseModel):
    type: Literal["content_block_start"]
    index: int
    content_block: Content


class TextDelta(BaseModel):
    type: Literal["text_delta"]
    text: str


class ThinkingDelta(BaseModel):
    type: Literal["thinking_delta"]
    thinking: str


class SignatureDelta(BaseModel):
    type: Literal["signature_delta"]
    signature: str


class InputDelta(BaseModel):
    """More of the JSON of a call's input."""

    type: Literal["input_json_delta"]
    partial_json: str


class BlockDelta(BaseModel):
    type: Literal["content_block_delta"]
    index: int
    delta: TextDelta | ThinkingDelta | SignatureDelta | InputDelta


class BlockStop(BaseModel):
    type: Literal["content_block_stop"]
    index: int


class Stopped(BaseModel):
    stop_reason: StopReason
    stop_sequence: str | None


class MessageDelta(BaseModel):
    """Why the answer ended, and its figures."""

    type: Literal["message_delta"]
    delta: Stopped
    usage: AnthropicUsage


class MessageStop(BaseModel):
    type: Literal["message_stop"]


class Ping(BaseModel):
    """Says only that the answer is on its way."""

    type: Literal["ping"]


class MessageEvent(RootModel[MessageStart | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop | Ping]):
    """One event of a stream."""


def content(parts: Sequence[Part], shows_thinking: bool) -> list[dict[str, object]]:
    """The blocks of an answer. See `Content`."""
    return [_block(part, shows_thinking) for part in parts]


def _block(part: Part, shows_thinking: bool) -> dict[str, object]:
    match part:
        case Text(text):
            return {"type": "text", "text": text}
        case Thought(text):
            return {"type": "thinking", "thinking": text if shows_thinking else "", "signature": SIGNATURE}
        case Call():
            return {**call_head(part), "input": _input(part)}


def call_head(call: Call) -> dict[str, object]:
    """The block of a call, with no input yet."""
    return {"type": "tool_use", "id": CALL_ID + call.id, "name": call.name, "input": {}}


def _input(call: Call) -> dict[str, Any]:
    try:
        value = json.loads(call.arguments) if call.whole else from_json(call.arguments or "{}", allow_partial=True)
    except (ValueError, RecursionError):
        return {}  # cut at a place where it is no beginning of JSON
    return value if isinstance(value, dict) else {}


def stopped(finish: Finish, summary: Summary, limit: int | None) -> dict[str, object]:
    """Why the answer ended. See `Stopped`. `limit`: most tokens that the request allows."""
    sequence, reason = None, "end_turn"
    if finish == "tool_calls":
        reason = "tool_use"
    elif finish == "length":
        full = summary.finish_reason == "length" and (limit is None or summary.completion_tokens < limit)
        reason = "model_context_window_exceeded" if full else "max_tokens"
    elif summary.stop_string:
        sequence, reason = summary.stop_string, "stop_sequence"
    return {"stop_reason": reason, "stop_sequence": sequence}


def usage(prompt: int, cached: int, answer: int, thinking: int) -> dict[str, object]:
    """See `AnthropicUsage`. Tokens of the prompt, those of them that were cached, of the answer, of its thinking."""
    return {
        "input_tokens": prompt - cached,
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": answer,
        "output_tokens_details": {"thinking_tokens": thinking},
    }


def usage_of(summary: Summary, thinking: int) -> dict[str, object]:
    """The figures of a finished answer. See `AnthropicUsage`."""
    return usage(summary.prompt_tokens, summary.cached_tokens, summary.completion_tokens, thinking)
