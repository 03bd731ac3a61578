"""Thinking in OpenAI's chat: what a request says about it, and where an answer tells it."""

from __future__ import annotations

from typing import Any

import pytest
from openai import OpenAI

from lead.api import Piece
from lead.chat.conversation import UNLIMITED, Thinking
from lead.http.openai.thinking import ThinkingFields
from tests.support.api import CALL, CHAT, HI, WEATHER, asked, chunks, post
from tests.support.http import ScriptedAnswerer

SAID: list[Any] = [
    ({}, Thinking()),
    ({"reasoning_effort": "low"}, Thinking(True, "low")),
    ({"reasoning_effort": "minimal"}, Thinking(None, "minimal")),
    ({"reasoning_effort": "none"}, Thinking(False, "none")),
    ({"reasoning_effort": "default"}, Thinking()),
    ({"reasoning_effort": None, "thinking": None, "reasoning": None}, Thinking()),
    ({"enable_thinking": False, "reasoning_effort": "high"}, Thinking(False, "high")),
    ({"reasoning": {"effort": "high", "max_tokens": 9}}, Thinking(True, "high", 9)),
    ({"reasoning": {"enabled": False}}, Thinking(False)),
    ({"thinking": {"type": "enabled", "budget_tokens": 5}}, Thinking(True, budget=5)),
    ({"thinking": {"type": "disabled"}}, Thinking(False)),
    ({"thinking": {"type": "adaptive"}}, Thinking()),
    ({"thinking_budget_tokens": 7, "thinking_budget": 8}, Thinking(budget=7)),
    ({"reasoning_budget": 0}, Thinking(budget=0)),
    ({"thinking_token_budget": -1}, Thinking(budget=UNLIMITED)),
]


@pytest.mark.parametrize(("fields", "meant"), SAID)
def test_what_a_request_says(fields: dict[str, Any], meant: Thinking) -> None:
    assert ThinkingFields.model_validate(fields).thinks() == meant


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, True),
        ({"include_reasoning": False}, False),
        ({"reasoning": {"exclude": True}}, False),
        ({"include_reasoning": True, "reasoning": {"exclude": False}}, True),
    ],
)
def test_whether_it_is_told(fields: dict[str, Any], told: bool) -> None:
    assert ThinkingFields.model_validate(fields).tells_thinking is told


def tokens(*texts: str) -> tuple[Piece, ...]:
    return tuple(Piece(text, token=1) for text in texts)


THOUGHT = [tokens("<think>", "Let"), tokens(" me", " see."), tokens("</think>", "Four"), tokens(".")]


def whole(url: str, **fields: Any) -> tuple[Any, Any, int]:
    """Content, thinking and tokens of thinking."""
    body = post(url, CHAT, messages=HI, **fields).json()
    message = body["choices"][0]["message"]
    count = body["usage"]["completion_tokens_details"]["reasoning_tokens"]
    return message["content"], message.get("reasoning_content"), count


def streamed(url: str, **fields: Any) -> tuple[str, str, int]:
    content, reasoning, count = "", "", 0
    for chunk in chunks(url, CHAT, messages=HI, stream_options={"include_usage": True}, **fields):
        for choice in chunk["choices"]:
            delta = choice["delta"]
            content += delta.get("content") or ""
            reasoning += delta.get("reasoning_content") or ""
            joined = "".join(text for text, _ in choice.get("accepted") or ())
            assert "accepted" not in choice or joined == (delta.get("reasoning_content") or delta.get("content") or "")
        if chunk["usage"]:
            count = chunk["usage"]["completion_tokens_details"]["reasoning_tokens"]
    return content, reasoning, count


@pytest.mark.parametrize(
    ("fields", "content", "reasoning", "count"),
    [
        ({}, "Four.", "Let me see.", 4),
        ({"reasoning_format": "auto"}, "Four.", "Let me see.", 4),
        ({"reasoning_format": "none"}, "<think>Let me see.</think>Four.", None, 0),
        ({"reasoning_format": "deepseek-legacy"}, "<think>Let me see.</think>Four.", "Let me see.", 4),
        ({"include_reasoning": False}, "Four.", None, 4),
        ({"reasoning_format": "deepseek-legacy", "include_reasoning": False}, "Four.", None, 4),
    ],
)
def test_where_thinking_is_told(
    url: str, answerer: ScriptedAnswerer, fields: dict[str, Any], content: str, reasoning: str | None, count: int
) -> None:
    answerer.script = THOUGHT
    assert whole(url, **fields) == (content, reasoning, count)
    assert streamed(url, **fields) == (content, reasoning or "", count)
    assert streamed(url, accepted=True, logprobs=True, **fields)[:2] == (content, reasoning or "")


def test_thinking_alone(url: str, answerer: ScriptedAnswerer) -> None:
    answerer.script = THOUGHT[:2]
    assert whole(url) == ("", "Let me see.", 4)
    assert streamed(url)[:2] == ("", "Let me see.")
    assert whole(url, reasoning_format="deepseek-legacy")[0] == "<think>Let me see.</think>"
    assert streamed(url, reasoning_format="deepseek-legacy")[0] == "<think>Let me see.</think>"


def test_a_call_after_thinking_with_the_openai_client(client: OpenAI, answerer: ScriptedAnswerer) -> None:
    answerer.script = [*THOUGHT[:2], ("</think>",), (f"<tool_call>{CALL}</tool_call>",)]
    (choice,) = client.chat.completions.create(model="any", messages=HI, tools=[WEATHER]).choices
    (call,) = choice.message.tool_calls or []
    assert call.type == "function" and call.function.name == "weather" and choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert choice.message.model_extra == {"reasoning_content": "Let me see."}


TEMPLATE = "{% if enable_thinking is defined %}{{ enable_thinking }}{% endif %} {{ reasoning_effort }} <think>"
"""Says what it was given, and opens thinking."""


def test_what_reaches_the_template_and_the_limit(url: str, answerer: ScriptedAnswerer) -> None:
    answerer.template = TEMPLATE

    def told(**fields: Any) -> tuple[str, int | None]:
        question = asked(url, answerer, **fields)
        text = answerer.info.vocabulary.decode(question.prompt)
        return text.removesuffix("<think>").strip(), question.thinking.budget if question.thinking else None

    assert told() == ("", None)
    assert told(reasoning_effort="high") == ("True high", None)
    assert told(reasoning_effort="none") == ("False none", 0)
    assert told(thinking_budget_tokens=9) == ("", 9)
    assert told(reasoning_budget=0) == ("False", 0)
    assert told(chat_template_kwargs={"enable_thinking": "as it is"}, enable_thinking=True) == ("as it is", None)
    question = asked(url, answerer, thinking_budget_tokens=9)
    assert question.thinking is not None and question.thinking.begun
    assert answerer.info.vocabulary.decode(question.thinking.ending) == "</think>"


def test_an_answer_that_begins_within_thinking(url: str, answerer: ScriptedAnswerer) -> None:
    answerer.template, answerer.script = TEMPLATE, [("Hm.",), ("</th", "ink>"), ("Yes",)]
    assert whole(url)[:2] == ("Yes", "Hm.")
    assert streamed(url)[:2] == ("Yes", "Hm.")
    assert whole(url, reasoning_format="none")[:2] == ("Hm.</think>Yes", None)
