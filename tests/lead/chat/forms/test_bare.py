"""Calls without marks: JSON at the beginning of a line, and in a fence."""

from __future__ import annotations

from typing import Any

import pytest

from lead.chat.forms import FORMS
from lead.chat.parser import parser_for
from lead.chat.parts import Text
from tests.support.forms import TOOLS, Part, parsed

CALL = '{"name": "time", "arguments": {}}'
TIME: Part = ("call", "time", {}, True)
FORMS_WITH_JSON = ["hermes", "json", "mistral", "qwen3-coder", "llama3"]


@pytest.mark.parametrize("form", FORMS_WITH_JSON)
@pytest.mark.parametrize(
    ("text", "before", "after"),
    [
        (f"```json\n{CALL}\n```", "", ""),
        (f"```\n{CALL}\n```", "", ""),
        (f"```tool_call\n{CALL}\n```\n", "", ""),
        (f"```json\n[{CALL}]\n```", "", ""),
        (f"```json\n{CALL}", "", ""),
        (f"```JSON\n{CALL}\n```", "", ""),
        (f"~~~json\n{CALL}\n~~~", "", ""),
        (f"~~~\n```\n~~~\n{CALL}", "~~~\n```\n~~~\n", ""),
        (f"I call:\n```json\n{CALL}\n```\nSo.", "I call:\n", "\nSo."),
        (f"I call:\n\n{CALL}", "I call:\n\n", ""),
        (f"I call:\n{CALL}\nSo.", "I call:\n", "\nSo."),
    ],
)
def test_calls_without_marks(form: str, text: str, before: str, after: str) -> None:
    expected = [("text", before), TIME, ("text", after)]
    for cuts in ((), range(1, len(text))):
        assert parsed(form, text, cuts).parts == [part for part in expected if part[1]]


@pytest.mark.parametrize("form", FORMS_WITH_JSON)
@pytest.mark.parametrize(
    "text",
    [
        '{"name": "time"}',
        '{"name": "Ada", "arguments": {}}',
        '{"answer": 42}',
        '{"name": "time", "arguments": {}, "more": 1}',
        '{"type": "object", "name": "time", "arguments": {}}',
        f"It is {CALL}",
        '```json\n{"name": "Ada"}\n```',
        f"```json\n{CALL}\nand text\n```",
        f"```python\nx = {CALL}\n```",
        f"````\n{CALL}\n````",
        f"~~~yaml\n{CALL}\n~~~",
        f"~~~~\n```\n{CALL}",
        "~~~",
        "{",
        "[",
        "```",
    ],
)
def test_other_json_is_text(form: str, text: str) -> None:
    assert parsed(form, text).parts == parsed(form, text, range(1, len(text))).parts == [("text", text)]


@pytest.mark.parametrize("form", sorted(FORMS))
@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("It rains in K", 0),
        ('{"answer": 4', 0),
        ("```python\nprint(", 0),
        ("[1, 2, ", 0),
        ("a < b", 0),
        ("It is\n", 0),
        ("``", 2),
        ('{"na', 4),
    ],
)
def test_text_comes_at_once_if_it_can_be_no_call(form: str, text: str, held: int) -> None:
    parser = parser_for(FORMS[form], TOOLS)
    told = "".join(part.text for letter in text for part in parser.push(letter) if isinstance(part, Text))
    if FORMS[form].channels:
        held = 0
    assert told == text[: len(text) - held] and parser.held == text[len(text) - held :]


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ('<|python_tag|>weather.call(city="Oslo", days=3)', [("weather", {"city": "Oslo", "days": 3})]),
        ('<|python_tag|>time.call(); weather.call(city="x")', [("time", {}), ("weather", {"city": "x"})]),
        ('<|python_tag|>weather.ask(city="Oslo")', []),
        ('<|python_tag|>other.call(city="Oslo")', []),
        ("<|python_tag|>weather.call", []),
    ],
)
def test_llama_may_call_a_method_of_a_tool(text: str, calls: list[Any]) -> None:
    for cuts in (range(0), range(1, len(text))):
        found = parsed("llama3", text, list(cuts))
        assert found.calls == calls
        assert calls or found.joined("text") == text
