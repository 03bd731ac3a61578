"""Messages in Anthropic's form become messages in OpenAI's."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lead.http.anthropic.blocks import Turn
from tests.support.anthropic import CALL, HI, WEATHER, asked, fault, say
from tests.support.http import ScriptedAnswerer, vocabulary

USE: dict[str, Any] = {"type": "tool_use", "id": "toolu_abcdefghi", "name": "weather", "input": {"city": "Köln"}}
RESULT: dict[str, Any] = {"type": "tool_result", "tool_use_id": "toolu_abcdefghi", "content": "rain"}
CALLED = {"id": "abcdefghi", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Köln"}'}}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def openai(turn: dict[str, Any]) -> list[dict[str, Any]]:
    return Turn.model_validate(turn).openai()


@pytest.mark.parametrize(
    ("turn", "messages"),
    [
        (user(text("a"), {**text("b"), "cache_control": {"type": "ephemeral"}}), [{"role": "user", "content": "a\nb"}]),
        ({"role": "system", "content": "Be brief."}, [{"role": "system", "content": "Be brief."}]),
        ({"role": "user", "content": ""}, [{"role": "user", "content": ""}]),
        ({"role": "user", "content": []}, [{"role": "user", "content": ""}]),
        (assistant(text("a"), USE, text("b")), [{"role": "assistant", "content": "ab", "tool_calls": [CALLED]}]),
        (
            assistant({"type": "thinking", "thinking": "Hm.", "signature": "any"}, text("a")),
            [{"role": "assistant", "content": "a", "reasoning_content": "Hm."}],
        ),
        (
            assistant({"type": "thinking", "thinking": "Hm."}, {"type": "redacted_thinking", "data": "x"}),
            [{"role": "assistant", "content": "", "reasoning_content": "Hm."}],
        ),
        (
            assistant(
                {"type": "compaction", "content": "They met.", "encrypted_content": "x"},
                {"type": "compaction", "content": None},
                {"type": "fallback", "from": {"model": "a"}, "to": {"model": "b"}},
                {"type": "mcp_tool_listing", "mcp_server_name": "m", "tools": []},
                text("a"),
            ),
            [{"role": "assistant", "content": "They met.\n\na"}],
        ),
        (
            assistant(
                {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "a"}},
                {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []},
                text("a"),
            ),
            [{"role": "assistant", "content": "a"}],
        ),
        (
            user(text("a"), RESULT),
            [{"role": "tool", "tool_call_id": "abcdefghi", "content": "rain"}, {"role": "user", "content": "a"}],
        ),
    ],
)
def test_turns(turn: dict[str, Any], messages: list[dict[str, Any]]) -> None:
    assert openai(turn) == messages


@pytest.mark.parametrize(
    ("fields", "content"),
    [
        ({"content": [text("a"), text("b")]}, "a\nb"),
        ({}, ""),
        ({"content": None}, ""),
        ({"content": [{"type": "tool_reference", "tool_name": "weather"}]}, "weather"),
        ({"content": "no such city", "is_error": True}, "Error: no such city"),
        ({"content": "Error 404", "is_error": True}, "Error 404"),
        ({"content": "rain", "is_error": False}, "rain"),
    ],
)
def test_results(fields: dict[str, Any], content: str) -> None:
    (message,) = openai(user({"type": "tool_result", "tool_use_id": "any", **fields}))
    assert message == {"role": "tool", "tool_call_id": "any", "content": content}


@pytest.mark.parametrize(
    ("block", "content"),
    [
        ({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "a"}}, "a"),
        ({"type": "document", "source": {"type": "content", "content": "a"}, "title": "T", "context": "C"}, "T\nC\na"),
        ({"type": "document", "source": {"type": "content", "content": [text("a"), text("b")]}}, "a\nb"),
        ({"type": "search_result", "title": "T", "source": "http://s", "content": [text("a")]}, "T\nhttp://s\na"),
    ],
)
def test_documents(block: dict[str, Any], content: str) -> None:
    assert openai(user(block)) == [{"role": "user", "content": content}]
    (result,) = openai(user({**RESULT, "content": [block]}))
    assert result["content"] == content


IMAGE: dict[str, Any] = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
PDF: dict[str, Any] = {"type": "document", "source": {"type": "url", "url": "http://a/b.pdf"}}


@pytest.mark.parametrize(
    ("turn", "place", "words"),
    [
        (user(text("a"), IMAGE), "messages[1].content[1]: ", "an image cannot be read"),
        (user({**RESULT, "content": [IMAGE]}), "messages[1].content[0].content[0]: ", "an image cannot be read"),
        (user(PDF), "messages[1].content[0].source: ", "url"),
        (user({"type": "server_tool_use", "id": "a"}), "messages[1]: content[0]", "server_tool_use"),
        (user({"type": "text"}), "messages[1].content[0].text is missing", ""),
        (user({"type": "tool_result"}), "messages[1].content[0].tool_use_id is missing", ""),
        (user({"text": "a"}), "messages[1].content[0]: ", "has no type"),
        (user(USE), "messages[1]: content[0]", "tool_use"),
        (assistant(RESULT), "messages[1]: content[0]", "tool_result"),
        (assistant({**USE, "input": "{}"}), "messages[1].content[0].input", "dict"),
        ({"role": "tool", "content": "a"}, "messages[1].role", "'user'"),
        ({"role": "user"}, "messages[1].content is missing", ""),
        ({"role": "user", "content": 5}, "messages[1].content", "5"),
        ({"role": "user", "content": [5]}, "messages[1].content[0]: ", "5 is no block"),
        ("text", "messages[1]", "text"),
    ],
)
def test_errors_name_the_place(url: str, answerer: ScriptedAnswerer, turn: Any, place: str, words: str) -> None:
    message = fault(say(url, messages=[*HI, turn]), 400, "invalid_request_error")
    assert message.startswith(place) and words in message and "type=" not in message
    assert answerer.asked.empty()


def test_ids_survive_a_round_trip(url: str, answerer: ScriptedAnswerer) -> None:
    """The lead's own come back as the model knows them. Another server's are kept apart."""
    answerer.script = [(CALL,)]
    own = say(url, tools=[WEATHER]).json()["content"][0]
    answerer.next_asked()
    other = {**USE, "id": "toolu_01D7FLrfh4GYq7yT1ULFeyMV"}
    results = [{**RESULT, "tool_use_id": use["id"]} for use in (own, other)]
    said = asked(url, answerer, messages=[*HI, assistant(own, other), user(*results)], tools=[WEATHER]).messages
    ids = [call["id"] for call in said[1]["tool_calls"]]
    assert ids == [own["id"].removeprefix("toolu_"), "01D7FLrfh4GYq7yT1ULFeyMV"]
    assert [message["tool_call_id"] for message in said[2:]] == ids


WORDS = st.text(max_size=8)
BLOCKS = st.one_of(
    st.builds(text, WORDS),
    st.builds(lambda words: {**RESULT, "content": words}, WORDS),
    st.builds(lambda words: {**RESULT, "content": [text(words)], "is_error": True}, WORDS),
    st.builds(lambda words: {"type": "thinking", "thinking": words, "signature": ""}, WORDS),
    st.builds(lambda words: {**USE, "input": {"city": words}}, WORDS),
)


@given(st.sampled_from(["user", "assistant"]), st.lists(BLOCKS, max_size=5))
def test_no_word_is_lost(role: str, blocks: list[dict[str, Any]]) -> None:
    mine = ("text", "tool_result") if role == "user" else ("text", "thinking", "tool_use")
    blocks = [block for block in blocks if block["type"] in mine]
    messages = openai({"role": role, "content": blocks})
    texts = [message[name] for message in messages for name in ("content", "reasoning_content") if name in message]
    for block in blocks:
        if block["type"] == "tool_use":
            calls = [call["function"]["arguments"] for call in messages[0]["tool_calls"]]
            assert block["input"] in [json.loads(arguments) for arguments in calls]
        else:
            word: Any = block.get("text", block.get("thinking", block.get("content")))
            word = word if isinstance(word, str) else word[0]["text"]
            assert any(word in text for text in texts)
    if role == "user":
        kinds = [message["role"] for message in messages]
        assert kinds == sorted(kinds), "results of tools come before what the user says"


def test_the_prompt_is_that_of_the_same_messages_in_openais_form(url: str, answerer: ScriptedAnswerer) -> None:
    turns = [*HI, assistant(text("Hello."), USE), user(RESULT, text("So?"))]
    found = asked(url, answerer, messages=turns).question.prompt
    tool = {"role": "tool", "tool_call_id": "abcdefghi", "content": "rain"}
    said = {"role": "assistant", "content": "Hello.", "tool_calls": [CALLED]}
    assert found == vocabulary().chat([*HI, said, tool, {"role": "user", "content": "So?"}])
