"""Conversations as clients send them back: whatever OpenAI's API accepts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

TOOL: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather now.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL: Mapping[str, Any] = {
    "id": "call_Ab12Cd34Ef56",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Oslo"}'},
}
RESULT: Mapping[str, Any] = {"role": "tool", "tool_call_id": "call_Ab12Cd34Ef56", "content": "rain"}


@dataclass
class History:
    """Messages, the words that a prompt must hold in their order, and words that may change places."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    free: list[str] = field(default_factory=list)
    count: int = 0

    def word(self, kind: str) -> str:
        self.count += 1
        return f"{kind}{self.count:03d}x"

    def say(self, text: str) -> str:
        self.words.append(text)
        return text


ARGUMENTS: Sequence[Any] = ("", "null", None, "[1]", '{"city": "cut', "7", 7, [1], {}, {"city": "Oslo"}, '"x"')
"""Arguments that clients and models made of a call."""


@st.composite
def histories(draw: DrawFn) -> History:
    made = History()
    for _ in range(draw(st.integers(1, 7))):
        role = draw(st.sampled_from(["system", "user", "assistant", "calls"]))
        if role == "calls":
            _call(draw, made)
            continue
        text = made.say(made.word(role[0])) if draw(st.integers(0, 5)) else ""
        message: dict[str, Any] = {"role": role, "content": text}
        if role == "assistant":
            if not text:
                message |= draw(st.sampled_from([{"content": None}, {"content": ""}, {"tool_calls": []}]))
            message |= _thought(draw, made)
        made.messages.append(message)
    return made


def _thought(draw: DrawFn, made: History) -> dict[str, Any]:
    return {"reasoning_content": made.word("t")} if draw(st.booleans()) else {}


def _call(draw: DrawFn, made: History) -> None:
    """A turn with calls, and their results."""
    content = draw(st.sampled_from([None, "", "text"]))
    message: dict[str, Any] = {"role": "assistant", "content": content, **_thought(draw, made), "tool_calls": []}
    if content:
        message["content"] = made.say(made.word("a"))
    results = []
    ids: SearchStrategy[Any] = st.sampled_from([None, "call_0", "call_Ab12Cd34Ef56", "abcdef123"])
    for _ in range(draw(st.integers(1, 3))):
        arguments = draw(st.sampled_from([*ARGUMENTS, "word", "word", "word"]))
        if arguments == "word":
            made.free.append(made.word("v"))
            arguments = json.dumps({"city": made.free[-1]})
        id = draw(ids)
        message["tool_calls"].append(
            {"id": id, "type": "function", "function": {"name": "weather", "arguments": arguments}}
        )
        made.free.append(made.word("r"))
        results.append({"role": "tool", "tool_call_id": id, "content": made.free[-1]})
    made.messages += [message, *results]
