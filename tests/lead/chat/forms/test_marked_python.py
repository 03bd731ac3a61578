"""Calls between marks that small models write as Python would, or between the marks of the prompt."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.forms import parsed

PYTHONS: list[tuple[str, list[Any]]] = [
    (
        "<tool_call>\n{'name': 'weather', 'arguments': {'city': \"O'slo\", 'exact': True, 'place': None}}</tool_call>",
        [("weather", {"city": "O'slo", "exact": True, "place": None})],
    ),
    ("<tool_call>{'name': 'time', 'arguments': None}</tool_call>", [("time", {})]),
    ("<tool_call>{'arguments': {'city': 'a}b'}, 'name': 'weather'}</tool_call>", [("weather", {"city": "a}b"})]),
    ('<tools>{"name": "weather", "arguments": {"city": "Oslo"}}</tools>', [("weather", {"city": "Oslo"})]),
    ('<tools>\n{"name": "time"}\n{"name": "time"}\n</tools>', [("time", {}), ("time", {})]),
]


@pytest.mark.parametrize(("text", "calls"), PYTHONS)
def test_between_marks_a_call_may_be_pythons_and_the_marks_those_of_the_prompt(text: str, calls: list[Any]) -> None:
    for cut in range(1, len(text)):
        assert parsed("hermes", text, [cut]).calls == calls


@pytest.mark.parametrize(
    "text",
    [
        "{'name': 'weather', 'arguments': {'city': 'Oslo'}}",
        "<tool_call>{'name': 'nobody', 'arguments': {}}</tool_call>",
        "<tool_call>{'name': 'weather', 'arguments': ['Oslo']}</tool_call>",
        "The tools stand between <tools> and </tools>.",
        '<tools>{"type": "function", "function": {"name": "other"}}</tools>',
    ],
)
def test_what_only_looks_like_it_is_text(text: str) -> None:
    found = parsed("hermes", text)
    assert found.calls == [] and found.joined("text") == text


def test_a_call_of_pythons_that_a_limit_cuts_has_no_arguments() -> None:
    found = parsed("hermes", "<tool_call>{'name': 'weather', 'arguments': {'city': 'Os", reason="length")
    assert found.parts == [("call", "weather", "", False)] and found.finish == "length"
