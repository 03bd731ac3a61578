"""Anthropic's messages, whole and streamed, with the vendor's own client."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from anthropic import Anthropic

from duo.errors import DuoError
from lead.api import Piece
from tests.support.anthropic import CALL, COUNT, HI, MESSAGES, WEATHER, asked, events, fault, say
from tests.support.http import SUMMARY, ScriptedAnswerer, conversation, vocabulary

TOOLS: list[Any] = [WEATHER]


def test_a_text(claude: Anthropic, answerer: ScriptedAnswerer) -> None:
    message = claude.messages.create(model="any", max_tokens=100, messages=HI, system="Be brief.")
    assert message.id.startswith("msg_") and message.model == "fake-13m" and message.role == "assistant"
    assert [(block.type, block.text) for block in message.content if block.type == "text"] == [
        ("text", "Hello, world!")
    ]
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (7, 4, 0)
    assert usage.output_tokens == 6
    question = answerer.next_asked().question
    assert conversation(question.prompt)["messages"] == [{"role": "system", "content": "Be brief."}, *HI]
    assert (question.max_tokens, question.streamed, question.sampling.temperature) == (100, False, 0.8)


def test_a_streamed_text(claude: Anthropic, answerer: ScriptedAnswerer) -> None:
    with claude.messages.stream(model="any", max_tokens=100, messages=HI) as stream:
        texts = list(stream.text_stream)
        message = stream.get_final_message()
    assert texts == ["Hello,", " wor", "ld!"]
    assert [block.text for block in message.content if block.type == "text"] == ["Hello, world!"]
    assert (message.stop_reason, message.usage.output_tokens) == ("end_turn", 6)
    assert (message.usage.input_tokens, message.usage.cache_read_input_tokens) == (7, 4)
    assert answerer.next_asked().question.streamed


def test_the_events_of_a_text(url: str, answerer: ScriptedAnswerer) -> None:
    start, ping, begin, *deltas, stop, end, last = events(say(url, stream=True))
    prompt = len(answerer.next_asked().question.prompt)
    assert start["message"]["usage"]["input_tokens"] == prompt, "what is known before the prompt is read"
    assert (start["message"]["content"], start["message"]["stop_reason"]) == ([], None)
    assert ping == {"type": "ping"}
    assert begin == {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    assert [event["delta"] for event in deltas] == [
        {"type": "text_delta", "text": text} for text in ("Hello,", " wor", "ld!")
    ]
    assert stop == {"type": "content_block_stop", "index": 0}
    assert end["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert end["usage"]["output_tokens"] == 6 and last == {"type": "message_stop"}


def test_an_answer_without_text(url: str, answerer: ScriptedAnswerer) -> None:
    answerer.script = [("",)]
    assert say(url).json()["content"] == []
    assert [event["type"] for event in events(say(url, stream=True))] == [
        "message_start", "ping", "message_delta", "message_stop",
    ]  # fmt: skip


def test_calls_of_tools_and_their_results(claude: Anthropic, answerer: ScriptedAnswerer) -> None:
    answerer.script = [("Let me ", "see."), (CALL[:9],), (CALL[9:],)]
    message = claude.messages.create(model="any", max_tokens=100, messages=HI, tools=TOOLS)
    text, call = message.content
    assert text.type == "text" and text.text == "Let me see."
    assert call.type == "tool_use" and (call.name, call.input) == ("weather", {"city": "Köln"})
    assert call.id.startswith("toolu_") and message.stop_reason == "tool_use"
    given = conversation(answerer.next_asked().question.prompt)["tools"]
    assert given == [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "description": "The weather of a city.",
                "parameters": WEATHER["input_schema"],
            },
        }
    ]
    # And its result, as clients send it back.
    result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": "rain"}
    turns: list[Any] = [*HI, message.to_param(), {"role": "user", "content": [{"type": "text", "text": "So?"}, result]}]
    claude.messages.create(model="any", max_tokens=100, messages=turns, tools=TOOLS)
    _, said, answer, so = answerer.next_asked().messages
    (called,) = said["tool_calls"]
    assert said["content"] == "Let me see."
    assert called["function"] == {"name": "weather", "arguments": {"city": "Köln"}}
    assert answer["role"] == "tool" and answer["content"] == "rain"
    assert answer["tool_call_id"] == called["id"] == call.id.removeprefix("toolu_")
    assert so == {"role": "user", "content": "So?"}


def test_streamed_calls(claude: Anthropic, answerer: ScriptedAnswerer) -> None:
    answerer.script = [("Let ",), ("me", CALL), (CALL[:-3], CALL[-3:])]
    with claude.messages.stream(model="any", max_tokens=100, messages=HI, tools=TOOLS) as stream:
        kinds = [event.type for event in stream if event.type.startswith("content_block_")]
        message = stream.get_final_message()
    text, *calls = message.content
    assert text.type == "text" and text.text == "Let me"
    assert [(call.type, call.input) for call in calls if call.type == "tool_use"] == [
        ("tool_use", {"city": "Köln"}),
        ("tool_use", {"city": "Köln"}),
    ]
    assert message.stop_reason == "tool_use"
    begin, delta, stop = "content_block_start", "content_block_delta", "content_block_stop"
    assert kinds == [begin, delta, delta, stop, begin, delta, stop, begin, delta, stop]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("text", "given"),
    [
        ('{"name": "weather", "arguments": {"city": "Köln", "da', {"city": "Köln"}),
        ('{"name": "weather", "arguments": {"city": "Kö', {}),
        ('{"name": "weather", "argu', {}),
    ],
)
def test_a_call_that_is_cut(
    claude: Anthropic, answerer: ScriptedAnswerer, stream: bool, text: str, given: dict[str, Any]
) -> None:
    answerer.script, answerer.summary = [(f"<tool_call>{text}",)], replace(SUMMARY, finish_reason="length")
    kept: dict[str, Any] = {"model": "any", "max_tokens": 6, "messages": HI, "tools": TOOLS}
    if stream:
        with claude.messages.stream(**kept) as streamed:
            message: Any = streamed.get_final_message()
    else:
        message = claude.messages.create(**kept)
    assert message.stop_reason == "max_tokens"
    (call,) = message.content
    assert call.name == "weather"
    assert call.input == given
    # All that the lead said can be sent back.
    result: Any = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "cut"}]}
    claude.messages.create(**{**kept, "messages": [*HI, message.to_param(), result]})


@pytest.mark.parametrize(
    ("summary", "reason", "sequence"),
    [
        (replace(SUMMARY, stop_string="\n\n"), "stop_sequence", "\n\n"),
        (replace(SUMMARY, finish_reason="length", completion_tokens=64), "max_tokens", None),
        (replace(SUMMARY, finish_reason="length", completion_tokens=63), "model_context_window_exceeded", None),
    ],
)
def test_why_an_answer_ended(url: str, answerer: ScriptedAnswerer, summary: Any, reason: str, sequence: Any) -> None:
    answerer.summary = summary
    body = say(url, stop_sequences=["\n\n"]).json()
    assert (body["stop_reason"], body["stop_sequence"]) == (reason, sequence)
    assert answerer.next_asked().question.stop == ("\n\n",)
    *_, last, _ = events(say(url, stop_sequences=["\n\n"], stream=True))
    assert last["delta"] == {"stop_reason": reason, "stop_sequence": sequence}


def test_a_request_that_only_reads_the_prompt(url: str, answerer: ScriptedAnswerer) -> None:
    body = say(url, max_tokens=0).json()
    assert (body["content"], body["stop_reason"], body["usage"]["output_tokens"]) == ([], "max_tokens", 0)
    assert answerer.next_asked().question.max_tokens == 1
    assert "content_block_start" not in say(url, max_tokens=0, stream=True).text


def test_count_tokens(claude: Anthropic, url: str, answerer: ScriptedAnswerer) -> None:
    fields: dict[str, Any] = {"system": "Be brief.", "tools": TOOLS, "messages": HI}
    count = claude.messages.count_tokens(model="any", **fields).input_tokens
    assert answerer.asked.empty(), "nothing is generated"
    assert count == len(asked(url, answerer, **fields).question.prompt)
    assert count > claude.messages.count_tokens(model="any", messages=HI).input_tokens == len(vocabulary().chat(HI))
    assert say(url, COUNT).headers["request-id"].startswith("req_")


def test_the_sampling_of_a_request(url: str, answerer: ScriptedAnswerer) -> None:
    sampling = asked(url, answerer, temperature=0.25, top_p=0.5, top_k=7, seed=3).question.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed) == (0.25, 0.5, 7, 3)


def test_an_answer_that_follows_a_schema(url: str, answerer: ScriptedAnswerer) -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    form = {"type": "json_schema", "schema": schema}
    new = asked(url, answerer, output_config={"format": form}).question.sampling.grammar
    old = asked(url, answerer, output_format=form).question.sampling.grammar
    assert new == old and "name" in new
    assert not asked(url, answerer).question.sampling.grammar


def test_tokens_without_text_are_told_in_no_event(url: str, answerer: ScriptedAnswerer) -> None:
    answerer.script = [(Piece("", token=5),), (Piece("Hi", token=6),), (Piece("", token=7),)]
    assert sum(event["type"] == "content_block_delta" for event in events(say(url, stream=True))) == 1


@pytest.mark.parametrize("path", [MESSAGES, COUNT])
def test_refused_before_it_is_asked(url: str, answerer: ScriptedAnswerer, path: str) -> None:
    message = fault(say(url, path, messages=[]), 400, "invalid_request_error")
    assert message.startswith("messages")
    assert answerer.asked.empty()


def test_broken_off(url: str, claude: Anthropic, answerer: ScriptedAnswerer) -> None:
    answerer.script = [("Hel",), DuoError("the engine lost its context")]
    assert fault(say(url), 500, "api_error") == "the engine lost its context"
    *_, last = events(say(url, stream=True))
    assert (last["type"], last["error"]["message"]) == ("error", "the engine lost its context")
    with (
        pytest.raises(Exception, match="the engine lost its context"),
        claude.messages.stream(model="any", max_tokens=5, messages=HI) as stream,
    ):
        stream.get_final_message()
