"""Images and files further back in a conversation, in all three APIs. Those that are asked about are refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lead.http import past
from tests.support.api import CHAT, error_of, post
from tests.support.http import ScriptedAnswerer

URL: dict[str, Any] = {"type": "image_url", "image_url": {"url": "data:"}}
SCREEN: dict[str, Any] = {"type": "input_image", "image_url": "data:"}
BLOCK: dict[str, Any] = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
PDF: dict[str, Any] = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "A"}}


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def said(content: Any = "I see.") -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def of_chat(*, image: Any = URL) -> list[dict[str, Any]]:
    """A question, a call, and its result, which has an image."""
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    content = [{"type": "text", "text": "seen"}, image]
    return [
        user("Look."),
        {**said(""), "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": content},
    ]


def of_items(output: Any, kind: str = "function_call") -> list[dict[str, Any]]:
    call = {"type": kind, "call_id": "c1", "name": "look", "arguments": "{}"}
    return [user("Look."), call, {"type": f"{kind}_output", "call_id": "c1", "output": output}]


def of_blocks(*more: Any, image: Any = BLOCK) -> list[dict[str, Any]]:
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "seen"}, image]}
    return [
        user("Look."),
        said([{"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}]),
        user([result, *more]),
    ]


ASKED_ABOUT: list[tuple[str, list[dict[str, Any]], str]] = [
    (CHAT, [user([URL])], "messages[0].content"),
    (CHAT, [user("Hi"), said(), user([URL])], "messages[2].content"),
    (CHAT, [user([URL]), user("What is it?")], "messages[0].content"),
    (CHAT, [user("Hi"), said([URL])], "messages[1].content"),
    (CHAT, of_chat(), "messages[2].content"),
    (CHAT, [*of_chat(), {"role": "tool", "content": "more"}], "messages[2].content"),
    ("/messages", [user([URL])], "messages[0].content"),
    ("/v1/responses", [user([SCREEN])], "input[0].content"),
    ("/v1/responses", of_items([SCREEN]), "input[2].output"),
    ("/v1/responses", of_items({"type": "computer_screenshot", "image_url": "x"}, "computer_call"), "input[2].output"),
    ("/v1/messages", [user([BLOCK])], "messages[0].content[0]"),
    ("/v1/messages", of_blocks(), "messages[2].content[0].content[1]"),
    ("/v1/messages", of_blocks(image=PDF), "messages[2].content[0].content[1].source"),
]


@pytest.mark.parametrize(("path", "messages", "place"), ASKED_ABOUT)
def test_what_is_asked_about_is_refused_with_its_place(
    url: str, answerer: ScriptedAnswerer, path: str, messages: list[dict[str, Any]], place: str
) -> None:
    response = post(url, path, **body(path, messages))
    if path == "/v1/messages":
        assert response.status_code == 400 and response.json()["error"]["message"].startswith(f"{place}: ")
    else:
        error = error_of(response, 400)
        assert error["param"] == place and "only text can" in error["message"]
    assert answerer.asked.empty()


def body(path: str, messages: list[dict[str, Any]]) -> dict[str, Any]:
    if path == "/v1/responses":
        return {"input": messages}
    return {"messages": messages, "max_tokens": 8}


OF_THE_PAST: list[tuple[str, list[dict[str, Any]], list[str]]] = [
    (CHAT, [user([{"type": "text", "text": "See:"}, URL]), said(), user("So?")], ["See:\n[image]", "I see.", "So?"]),
    (CHAT, [*of_chat(), user("Go on.")], ["Look.", "", "seen\n[image]", "Go on."]),
    (CHAT, [*of_chat(), said(), user("So?")], ["Look.", "", "seen\n[image]", "I see.", "So?"]),
    (CHAT, [*of_chat(image={"type": "file", "file": {}}), user("So?")], ["Look.", "", "seen\n[file]", "So?"]),
    (CHAT, [user("Draw."), said([URL]), user("So?")], ["Draw.", "[image]", "So?"]),
    (CHAT, [user("Say."), {**said(None), "audio": {"id": "a"}}, user("So?")], ["Say.", "[audio]", "So?"]),
    ("/messages", [user([{"type": "input_audio"}]), said(), user("So?")], ["[audio]", "I see.", "So?"]),
    ("/v1/responses", [user([SCREEN]), said(), user("So?")], ["[image]", "I see.", "So?"]),
    ("/v1/responses", [*of_items([SCREEN]), user("So?")], ["Look.", "", "[image]", "So?"]),
    (
        "/v1/responses",
        [*of_items({"type": "computer_screenshot", "file_id": "x"}, "computer_call"), user("So?")],
        ["Look.", "", "[image]", "So?"],
    ),
    ("/v1/responses", [*of_items([{"type": "input_file", "file_id": "x"}]), said()], ["Look.", "", "[file]", "I see."]),
    ("/v1/messages", [user([BLOCK, PDF]), said(), user("So?")], ["[image]\n[document]", "I see.", "So?"]),
    ("/v1/messages", [*of_blocks(), user("So?")], ["Look.", "", "seen\n[image]", "So?"]),
    ("/v1/messages", of_blocks({"type": "text", "text": "So?"}), ["Look.", "", "seen\n[image]", "So?"]),
    ("/v1/messages", [*of_blocks(image=PDF), said(), user("So?")], ["Look.", "", "seen\n[document]", "I see.", "So?"]),
    (
        "/v1/messages",
        [
            *of_blocks(image={"type": "document", "source": {"type": "content", "content": [BLOCK]}}),
            user([{"type": "text", "text": "So?"}]),
        ],
        ["Look.", "", "seen\n[image]", "So?"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("path", "messages", "contents"), OF_THE_PAST)
def test_further_back_a_text_names_it(
    url: str, answerer: ScriptedAnswerer, path: str, messages: list[dict[str, Any]], contents: list[str]
) -> None:
    response = post(url, path, **body(path, messages))
    assert response.status_code == 200, response.text
    assert [message["content"] for message in answerer.next_asked().messages] == contents


def test_what_can_be_read_stays(url: str, answerer: ScriptedAnswerer) -> None:
    plain = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "words"}}
    messages = [user([plain, BLOCK]), said(), user("So?")]
    assert post(url, "/v1/messages", messages=messages, max_tokens=8).status_code == 200
    assert answerer.next_asked().messages[0]["content"] == "words\n[image]"


def test_tokens_are_counted_of_the_same_prompt(url: str, answerer: ScriptedAnswerer) -> None:
    messages = [*of_blocks(), user("So?")]
    count = post(url, "/v1/messages/count_tokens", messages=messages)
    assert post(url, "/v1/messages", messages=messages, max_tokens=8).status_code == 200
    assert count.json()["input_tokens"] == len(answerer.next_asked().question.prompt)
    items = [*of_items([SCREEN]), user("So?")]
    assert post(url, "/v1/responses/input_tokens", input=items).status_code == 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "type", "content", "output", "source", "audio", "x"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)
KINDS = st.sampled_from(["image", "document", "tool_result", "text", "function_call_output", "function_call", 7, None])
ANYTHING: st.SearchStrategy[list[Any]] = st.lists(
    JSON
    | st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "tool", [], None])},
        optional={"content": JSON | st.lists(st.fixed_dictionaries({"type": KINDS}, optional={"content": JSON}))},
    )
    | st.fixed_dictionaries({"type": KINDS}, optional={"output": JSON, "content": JSON}),
    max_size=5,
)


@given(ANYTHING)
def test_nothing_is_judged_and_nothing_else_changes(messages: list[Any]) -> None:
    """What is wrong is for the types to judge. Without unreadable parts, all is as it was."""
    for made in (past.in_chat(messages), past.in_items(messages), past.in_turns(messages)):
        assert isinstance(made, list) and len(made) == len(messages)
        if not any(word in repr(messages) for word in ("image", "document", "audio")):
            assert made == messages


@pytest.mark.parametrize("messages", [None, "Hi", {}, 7])
def test_what_is_no_list_stays(messages: Any) -> None:
    assert past.in_chat(messages) == messages == past.in_turns(messages)
