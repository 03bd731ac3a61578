"""Answers of Cohere's models."""

from __future__ import annotations

from typing import Any

import pytest

from lead.chat.conversation import ChatSettings, Conversation
from lead.chat.forms import FORMS
from lead.chat.parser import parser_for
from lead.chat.parts import Call
from lead.chat.prepare import prepare
from tests.support.bytes_vocabulary import ByteVocabulary
from tests.support.forms import TOOLS, Part, parsed

TIME: Part = ("call", "time", {}, True)
WEATHER: Part = ("call", "weather", {"city": "Köln"}, True)
ACTION = '{"tool_call_id": "0", "tool_name": "weather", "parameters": {"city": "Köln"}}'
BARE = '{"tool_name": "time", "parameters": {}}'
THINKS = "<|START_THINKING|>Hm.<|END_THINKING|>"
THOUGHT: Part = ("thought", "Hm.")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("<|START_RESPONSE|>It rains.<|END_RESPONSE|>", [("text", "It rains.")]),
        (f"{THINKS}<|START_RESPONSE|>It rains.<|END_RESPONSE|>\n", [THOUGHT, ("text", "It rains.")]),
        (f"{THINKS}<|START_TEXT|>\nIt rains.<|END_TEXT|>", [THOUGHT, ("text", "It rains.")]),
        (f"{THINKS}It rains.", [THOUGHT, ("text", "It rains.")]),
        ("The mark is `<|START_RESPONSE|>`.", [("text", "The mark is `<|START_RESPONSE|>`.")]),
        ("<|START_RESPONSE|>a < b <|START<|END_RESPONSE|>", [("text", "a < b <|START")]),
        (f"{THINKS}<|START_ACTION|>[\n    {ACTION}\n]<|END_ACTION|>", [THOUGHT, WEATHER]),
        (f"<|START_ACTION|>{ACTION}<|END_ACTION|>", [WEATHER]),
        (f"<|START_RESPONSE|>So.<|END_RESPONSE|><|START_ACTION|>[{ACTION}]", [("text", "So."), WEATHER]),
        ('<|START_ACTION|>[{"tool_name": "other", "parameters": {}}]<|END_ACTION|>', None),
        ('<|START_ACTION|>[{"tool_name": ["time"], "parameters": {}}]<|END_ACTION|>', None),
        ("<|START_ACTION|>[]<|END_ACTION|>", None),
    ],
)
@pytest.mark.parametrize("asked", [{}, {"tools": ()}, {"keep_thinking": True}])
def test_marks_around_text_are_no_part_of_it(text: str, parts: list[Part] | None, asked: dict[str, Any]) -> None:
    if asked and ("ACTION" in text or ("keep_thinking" in asked and THINKS in text)):
        expected = parsed("command-r7b", text, **asked).parts
    else:
        expected = [("text", text)] if parts is None else parts
    for cuts in ((), range(1, len(text)), *([at] for at in range(len(text)))):
        assert parsed("command-r7b", text, cuts, **asked).parts == expected


def test_thinking_stays_and_the_other_marks_go() -> None:
    text = f"{THINKS}<|START_RESPONSE|>It rains.<|END_RESPONSE|>"
    for tools in (TOOLS, ()):
        found = parsed("command-r7b", text, keep_thinking=True, tools=tools)
        assert found.parts == [("text", f"{THINKS}It rains.")]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('Action: ```json\n[\n    {\n        "tool_name": "time",\n        "parameters": {}\n    }\n]```', [TIME]),
        (
            'Plan: I look.\nAction:```json\n[{"tool_name": "time", "parameters": {}}]\n```',
            [("text", "Plan: I look.\n"), TIME],
        ),
        (f"Action: ```json\n[{BARE}, {BARE}", [TIME, TIME]),
        ('Action: ```json\n[{"tool_name": "directly-answer", "parameters": {}}]```', None),
        ("Action: ```python\nprint()\n```", None),
        ("Action: I go. Act", None),
        ("All Actions: none", None),
    ],
)
def test_actions_in_a_fence(text: str, parts: list[Part] | None) -> None:
    expected = [("text", text)] if parts is None else parts
    for cuts in ((), range(1, len(text)), *([at] for at in range(len(text)))):
        assert parsed("command-r", text, cuts).parts == expected


def test_numbers_of_actions_are_no_ids() -> None:
    """They begin again in each answer, and ids must differ in the whole conversation."""
    parts = parser_for(FORMS["command-r7b"], TOOLS).push(f"<|START_ACTION|>[{ACTION}]<|END_ACTION|>")
    assert [len(part.id) for part in parts if isinstance(part, Call)] == [9]


def test_marks_that_are_special_tokens() -> None:
    names = ["<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_ACTION|>", "<|END_ACTION|>"]
    vocabulary = ByteVocabulary(names)
    asked = Conversation([{"role": "user", "content": "Hi"}], TOOLS)
    prepared = prepare(asked, vocabulary, ChatSettings(tool_format="command-r7b"))
    assert sorted(prepared.marks.values()) == sorted(names)
