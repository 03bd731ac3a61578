"""Which result belongs to which call, and what arguments become."""

from __future__ import annotations

import json
from typing import Any

import pytest

from duo.engines.chat.calls import as_object, as_text, paired, with_ids
from duo.engines.chat.traits import Ids
from duo.errors import RequestError


def call(id: str | None, name: str = "f") -> dict[str, Any]:
    return {"id": id, "function": {"name": name, "arguments": "{}"}}


def result(id: str | None, content: str, name: str | None = None) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id, "content": content, "name": name}


def calls(*given: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": list(given)}


def answered(*messages: dict[str, Any]) -> dict[str, int]:
    """The number of each result's call, by the result's text."""
    turns = with_ids(paired(messages), "any")
    ids = [one["id"] for turn in turns for one in turn.get("tool_calls") or ()]
    assert len(set(ids)) == len(ids)
    return {turn["content"]: ids.index(turn["tool_call_id"]) for turn in turns if turn["role"] == "tool"}


@pytest.mark.parametrize(
    "results",
    [
        [result("b", "second"), result("a", "first")],
        [result(None, "first"), result(None, "second")],
        [result(None, "second"), result("a", "first")],
        [result(None, "second", "g"), result(None, "first")],
        [result("never seen", "first"), result("nor this", "second")],
    ],
)
def test_results_find_their_call(results: list[dict[str, Any]]) -> None:
    """By id, else by name, else by order."""
    assert answered(calls(call("a"), call("b", "g")), *results) == {"first": 0, "second": 1}


def test_ids_that_are_missing_or_there_twice() -> None:
    none = [calls(call(None), call(None)), result(None, "0"), result(None, "1"), calls(call(None)), result(None, "2")]
    assert answered(*none) == {"0": 0, "1": 1, "2": 2}
    same = [calls(call("x"), call("x")), result("x", "0"), result("x", "1"), calls(call("x")), result("x", "2")]
    assert answered(*same) == {"0": 0, "1": 1, "2": 2}
    assert with_ids(paired(none), "nine")[:3] == with_ids(paired(none[:3]), "nine"), "as in the turn before"


@pytest.mark.parametrize("ids", ["any", "nine", "named"])
def test_an_id_that_is_made_up_may_be_taken(ids: Ids) -> None:
    given = ["call00001", "call00004", "functions.f:3", "x", "x", "call00000", "x", "x", None, None]
    turns = with_ids(paired([calls(*map(call, given))]), ids)
    found = [one["id"] for turn in turns for one in turn["tool_calls"]]
    assert len(set(found)) == len(given)


def test_a_result_without_a_call_has_an_id_too() -> None:
    (turn,) = paired([result(None, "x")])
    assert turn["tool_call_id"] and turn["name"] is None


def test_a_call_that_names_no_function() -> None:
    given: list[Any] = [{"id": "1"}, "x", {"function": {}}, {"function": {"name": 7}}]
    for broken in given:
        with pytest.raises(RequestError, match=r"messages\[1\]\.tool_calls\[1\] names no function"):
            paired([{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [call("1"), broken]}])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"a": 1}, {"a": 1}),
        ('{"a": 1}', {"a": 1}),
        ('"{\\"a\\": 1}"', {"a": 1}),
        ("", {}),
        ("  ", {}),
        (None, {}),
        ("null", {}),
        ('""', {}),
        ('{"a": "cu', {"arguments": '{"a": "cu'}),
        ("[1, 2]", {"arguments": "[1, 2]"}),
        ([1, 2], {"arguments": "[1, 2]"}),
        (7, {"arguments": "7"}),
        (False, {"arguments": "false"}),
        ("Oslo", {"arguments": "Oslo"}),
        ("[" * 100_000, {"arguments": "[" * 100_000}),
    ],
)
def test_arguments_become_an_object(given: object, expected: dict[str, Any]) -> None:
    assert as_object(given) == expected
    assert json.loads(as_text(given)) == expected


def test_arguments_stay_as_the_model_wrote_them() -> None:
    assert as_text('{"a" :1}') == '{"a" :1}'
