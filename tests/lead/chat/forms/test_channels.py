"""Answers of gpt-oss."""

from __future__ import annotations

import pytest

from lead.chat.forms import FORMS
from lead.chat.forms.channels import MAX_HEADER
from lead.chat.parser import parser_for
from tests.support.forms import TOOLS, Part, merged, parsed

CALL = '{"city": "Köln <|end|>"}'
WEATHER = ("call", "weather", {"city": "Köln <|end|>"}, True)
TIME: Part = ("call", "time", {}, True)
THOUGHT, ANSWER = ("thought", "Hm."), ("text", "It rains.")
THINKS = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("<|channel|>final<|message|>It rains.", [ANSWER]),
        (THINKS + "<|channel|>final<|message|>It rains.<|return|>", [THOUGHT, ANSWER]),
        (f"{THINKS}<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{CALL}", [THOUGHT, WEATHER]),
        (
            f"<|channel|>commentary to=functions.weather<|channel|>x <|constrain|>json<|message|>{CALL}<|call|>",
            [WEATHER],
        ),
        (f"<|channel|>analysis to=functions.weather code<|message|>{CALL}<|call|>", [WEATHER]),
        (f" to=functions.weather<|channel|>commentary json<|message|>{CALL}", [WEATHER]),
        (f"{THINKS} to=functions.weather<|channel|>commentary<|message|>{CALL}", [THOUGHT, WEATHER]),
        ("<|channel|>commentary<|message|>I look.<|end|>" + "<|start|>assistant<|channel|>final<|message|>Yes.", None),
        ("It rains.", [ANSWER]),
        # No arguments, and recipients that are no tools.
        ("<|channel|>commentary to=functions.time <|constrain|>json<|message|><|call|>", [TIME]),
        ("<|channel|>commentary to=functions.time <|message|>", [TIME]),
        ("<|channel|>commentary to=functions.other <|constrain|>json<|message|>{}<|call|>", [("text", "{}")]),
        ("<|channel|>analysis to=browser.search code<|message|>{}<|call|>", [("thought", "{}")]),
        ("to be or not", [("text", "to be or not")]),
        ("Hm.", [("text", "Hm.")]),
        ("", []),
    ],
)
def test_messages(text: str, parts: list[object] | None) -> None:
    expected = [("text", "I look.Yes.")] if parts is None else parts
    assert parsed("gpt-oss", text).parts == expected
    for at in range(len(text)):
        assert parsed("gpt-oss", text, [at]).parts == expected
    assert parsed("gpt-oss", text, range(1, max(1, len(text)))).parts == expected


@pytest.mark.parametrize(
    "text",
    [
        "<|channel|>commentary to=functions.weather <|constrain|>json<|message|>nonsense<|call|>",
        "<|channel|>commentary to=functions.weather<|message|>{} and more<|call|>",
        "<|message|>nothing",
        "<|channel|>" + "x" * 500,
    ],
)
def test_what_is_no_call_is_text_with_its_marks(text: str) -> None:
    assert parsed("gpt-oss", text).parts == parsed("gpt-oss", text, range(1, len(text))).parts == [("text", text)]


@pytest.mark.parametrize("begin", ["<|channel|>", "<|channel|>commentary to=functions.weather ", " to="])
def test_a_header_that_is_too_long_is_text_at_once(begin: str) -> None:
    """It is not held back until the answer ends."""
    text = begin + "x" * (MAX_HEADER + 1)
    parser = parser_for(FORMS["gpt-oss"], TOOLS)
    parts = [part for letter in text for part in parser.push(letter)]
    assert merged(parts) == [("text", text)] and parser.held == ""


def test_a_prompt_that_began_a_message() -> None:
    text = "Hm.<|end|><|start|>assistant<|channel|>final<|message|>It rains."
    assert parsed("gpt-oss", text, thinking_open=True).parts == [THOUGHT, ANSWER]


def test_cuts() -> None:
    call = "<|channel|>commentary to=functions.weather <|constrain|>json<|message|>"
    found = parsed("gpt-oss", call + '{"city": "K', reason="length")
    assert found.parts == [("call", "weather", '{"city": "K', False)] and found.finish == "length"
    assert parsed("gpt-oss", THINKS[:-18], reason="length").parts == [THOUGHT]
    assert parsed("gpt-oss", call[:20], reason="length").parts == []


def test_thinking_in_the_text() -> None:
    text = THINKS.removesuffix("<|start|>assistant")
    found = parsed("gpt-oss", THINKS + "<|channel|>final<|message|>It rains.", keep_thinking=True)
    assert found.parts == [("text", f"{text}It rains.")]
    assert parsed("gpt-oss", THINKS + "<|channel|>final<|message|>It rains.", tools=()).parts == [THOUGHT, ANSWER]
