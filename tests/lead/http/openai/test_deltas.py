"""Parts as content, reasoning_content and tool_calls."""

from __future__ import annotations

from lead.chat.parts import Call, Text, Thought
from lead.http.openai.deltas import Delta, Deltas, ThinkingStyle

CALL = Call("id", "f", "{}")


def test_thinking_is_apart() -> None:
    found = Deltas(ThinkingStyle()).of([Thought("a"), Text("b"), CALL, Text("c"), Thought("d"), CALL])
    assert found == [Delta("a"), Delta("", "bc", [CALL]), Delta("d"), Delta("", "", [CALL])]


def test_thinking_in_the_content_too() -> None:
    deltas = Deltas(ThinkingStyle(marks=("<t>", "</t>")))
    assert deltas.of([Thought("a")]) == [Delta("a", "<t>a")]
    assert deltas.of([Thought("b"), Text("c")]) == [Delta("b", "b"), Delta("", "</t>c", [])]
    assert deltas.end() == ""
    assert deltas.of([Thought("d")]) == [Delta("d", "<t>d")]
    assert deltas.end() == "</t>"


def test_thinking_left_out() -> None:
    assert Deltas(ThinkingStyle(apart=False)).of([Thought("a"), Text("b")]) == [Delta("", "b", [])]
