"""Items of a request, and the conversation that they are."""

from __future__ import annotations

import json
from typing import Any

import pytest

from duo.errors import RequestError
from lead.http.responses.items import items_of, messages_of, sealed, unsealed

USER: dict[str, Any] = {"role": "user", "content": "Hi"}


def turns(*items: dict[str, Any]) -> list[dict[str, Any]]:
    return messages_of(items_of(list(items)))


def call(call_id: str = "c1", name: str = "read", arguments: str = '{"path":"a"}') -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}


def output(call_id: str = "c1", text: Any = "text") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": text}


def said(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


def thought(text: str) -> dict[str, Any]:
    return {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": text}]}


def told(call_id: str = "c1", name: str = "read", arguments: str = '{"path":"a"}') -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def test_a_text_is_a_message_of_the_user() -> None:
    assert messages_of(items_of("Hi")) == [USER]


def test_messages_in_all_their_forms() -> None:
    parts = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
    assert turns(
        {"type": "message", "role": "developer", "content": parts},
        {"role": "system", "content": "c"},
        {"role": "user", "content": []},
        {**said("d"), "id": "msg_1", "status": "completed", "phase": "final_answer"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
    ) == [
        {"role": "system", "content": "a\nb"},
        {"role": "system", "content": "c"},
        {"role": "user", "content": ""},
        {"role": "assistant", "content": "d"},
        {"role": "assistant", "content": "no"},
    ]


def test_what_the_assistant_says_in_a_row_is_one_turn() -> None:
    both = [told("c1"), told("c2", "list", "{}")]
    assert turns(
        USER, thought("Well"), said("Let me see"), call("c1"), call("c2", "list", "{}"), output("c1", "x"), output("c2")
    ) == [
        USER,
        {"role": "assistant", "content": "Let me see", "reasoning_content": "Well", "tool_calls": both},
        {"role": "tool", "content": "x", "tool_call_id": "c1", "name": "read"},
        {"role": "tool", "content": "text", "tool_call_id": "c2", "name": "list"},
    ]


def test_every_call_is_before_its_output_whatever_stands_between() -> None:
    found = turns(USER, call("c1"), thought("Hm"), said("And"), call("c2"), said("Done"), output("c1"), output("c2"))
    assert found[1] == {
        "role": "assistant",
        "content": "And\nDone",
        "reasoning_content": "Hm",
        "tool_calls": [told("c1"), told("c2")],
    }
    assert [turn["role"] for turn in found] == ["user", "assistant", "tool", "tool"]


def test_steps_of_an_agent_are_turns_of_their_own() -> None:
    found = turns(USER, thought("1"), call("c1"), output("c1"), thought("2"), call("c2"), output("c2"), said("Done"))
    assert [turn["role"] for turn in found] == ["user", "assistant", "tool", "assistant", "tool", "assistant"]
    assert [turn.get("reasoning_content") for turn in found[1::2]] == ["1", "2", None]


def test_text_after_text_is_another_turn() -> None:
    assert [turn["content"] for turn in turns(USER, said("a"), said("b"))] == ["Hi", "a", "b"]


@pytest.mark.parametrize(
    ("item", "thinking"),
    [
        ({"content": [{"type": "text", "text": "a"}, {"type": "reasoning_text", "text": "b"}]}, "a\nb"),
        ({"summary": [{"type": "summary_text", "text": "short"}]}, "short"),
        ({"summary": [], "content": None, "encrypted_content": sealed("Köln")}, "Köln"),
    ],
)
def test_thinking(item: dict[str, Any], thinking: str) -> None:
    found = turns(USER, {"type": "reasoning", "id": "rs_1", **item}, call())
    assert found[1]["reasoning_content"] == thinking


@pytest.mark.parametrize("content", ["gAAAAABo", "duo.", "duo.*", "duo.w7w=x", "duo._w==", "duo.é", ""])
def test_thinking_that_cannot_be_read_is_none(content: str) -> None:
    assert unsealed(content) == ""
    found = turns(USER, {"type": "reasoning", "summary": [], "encrypted_content": content}, call())
    assert "reasoning_content" not in found[1]


@pytest.mark.parametrize("text", ["", "a", "a\x00b", "😀 Köln\n"])
def test_sealed_thinking_comes_back(text: str) -> None:
    assert unsealed(sealed(text)) == text


@pytest.mark.parametrize(
    ("arguments", "written"),
    [({"a": 1}, '{"a":1}'), ("", ""), ('{"a', '{"a'), (None, "{}"), ({}, "{}")],
)
def test_arguments_as_they_come(arguments: Any, written: str) -> None:
    assert turns({**call(), "arguments": arguments})[0]["tool_calls"][0]["function"]["arguments"] == written


def test_calls_without_ids() -> None:
    found = turns({"type": "function_call", "name": "a", "arguments": "{}"}, {**call(), "call_id": None, "id": "fc_1"})
    assert [made["id"] for made in found[0]["tool_calls"]] == [None, "fc_1"]
    (answer,) = turns({"type": "function_call_output", "output": "x"})
    assert answer == {"role": "tool", "content": "x"}


def test_outputs_in_all_their_forms() -> None:
    parts = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
    shell = [{"stdout": "x", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}}]
    outputs = [output(text=parts), {"type": "shell_call_output", "call_id": "c", "output": shell}]
    first, second, third = turns(*outputs, {"type": "apply_patch_call_output", "call_id": "c", "status": "completed"})
    assert first["content"] == "a\nb" and json.loads(second["content"]) == shell and third["content"] == ""


def test_other_calls_of_the_client() -> None:
    command = {"type": "exec", "command": ["ls"], "env": {}}
    found = turns(
        {"type": "custom_tool_call", "call_id": "c1", "name": "patch", "input": '*** "a"\n'},
        {"type": "function_call", "call_id": "c2", "namespace": "mcp__x", "name": "js", "arguments": "{}"},
        {"type": "local_shell_call", "id": "l1", "call_id": "c3", "status": "completed", "action": command},
        {"type": "custom_tool_call_output", "call_id": "c1", "output": "done"},
    )
    functions = [made["function"] for made in found[0]["tool_calls"]]
    assert [function["name"] for function in functions] == ["patch", "mcp__x__js", "local_shell"]
    assert [json.loads(function["arguments"]) for function in functions] == [{"input": '*** "a"\n'}, {}, command]
    assert found[1]["name"] == "patch"


def test_what_other_servers_did_themselves_is_left_out() -> None:
    assert turns(USER, {"type": "web_search_call", "id": "ws_1", "status": "completed"}, said("a")) == [
        USER,
        {"role": "assistant", "content": "a"},
    ]


@pytest.mark.parametrize(
    ("item", "place", "said"),
    [
        ("text", "input[1]", "an item is an object"),
        ({"type": "nothing"}, "input[1].type", "knows no such item"),
        ({"type": ["message"]}, "input[1].type", "knows no such item"),
        ({"type": "compaction", "encrypted_content": "x"}, "input[1].type", "only the server that encrypted it"),
        ({}, "input[1].role", "is missing"),
        ({"role": "tool", "content": "x"}, "input[1].role", "'user', 'assistant', 'system' or 'developer'"),
        ({"role": "user"}, "input[1].content", "is missing"),
        ({"role": "user", "content": 1}, "input[1].content", "string"),
        ({"role": "user", "content": [1]}, "input[1].content", "not a text part"),
        (
            {"role": "user", "content": [{"type": "input_image", "image_url": "x"}]},
            "input[1].content",
            'type "input_image" cannot be read',
        ),
        ({"type": "function_call", "call_id": "c", "arguments": "{}"}, "input[1].name", "is missing"),
        ({"type": "function_call", "name": "a", "arguments": []}, "input[1].arguments", "string"),
        (output(text=[{"type": "input_file", "file_id": "x"}]), "input[1].output", '"input_file"'),
        ({"type": "reasoning", "content": "x"}, "input[1].content", "list"),
        ({"type": "item_reference"}, "input[1].id", "is missing"),
    ],
)
def test_bad_items_are_named_with_their_place(item: Any, place: str, said: str) -> None:
    with pytest.raises(RequestError) as refused:
        items_of([USER, item])
    assert refused.value.param is not None and refused.value.param.startswith(place)
    assert said in str(refused.value) and str(refused.value).startswith(place)


def test_the_place_names_no_member_of_a_union() -> None:
    with pytest.raises(RequestError) as refused:
        items_of([{"type": "function_call", "name": "a", "arguments": [1]}])
    assert refused.value.param == "input[0].arguments"


def test_the_number_of_items_is_bounded() -> None:
    with pytest.raises(ValueError, match="10001 items are too many"):
        items_of([USER] * 10_001)
