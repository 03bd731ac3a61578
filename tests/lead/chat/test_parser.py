"""Calls in the text of an answer, in every spelling, cut anywhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from lead.chat.conversation import Tool
from lead.chat.forms import FORMS
from lead.chat.parser import AnswerParser, parser_for
from lead.chat.parts import Call, Part, Text
from tests.support.api import CALL, CHAT, HI, WEATHER, chunks, post
from tests.support.http import SUMMARY, ScriptedAnswerer


def parser_of(*names: str, parallel: bool = True, must_call: bool = False) -> AnswerParser:
    return parser_for(FORMS["hermes"], [Tool(name) for name in names], parallel=parallel, must_call=must_call)


def text_of(parts: Sequence[Part]) -> str:
    return "".join(part.text for part in parts if isinstance(part, Text))


def calls_of(parts: Sequence[Part]) -> list[Call]:
    return [part for part in parts if isinstance(part, Call)]


MARK_INSIDE = r'{"name": "weather", "arguments": {"city": "a \"</tool_call>\\"}}'


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("text", "content", "names"),
    [
        (f"<tool_call>\n{CALL}\n</tool_call>", "", ["weather"]),
        (f"So: <tool_call>{CALL}</tool_call>\n<tool_call>{CALL}</tool_call>", "So: ", ["weather"] * 2),
        (f"<tool_call>{CALL}", "", ["weather"]),  # cut off after its end
        (CALL, "", ["weather"]),
        (f"\n[{CALL}, {CALL}]", "", ["weather"] * 2),
        ('{"name": "weather", "parameters": {"city": "a"}}', "", ["weather"]),
        ('{"type": "function", "function": {"name": "time", "arguments": "{}"}}', "", ["time"]),
        (f"[TOOL_CALLS][{CALL}]", "", ["weather"]),
        ('[TOOL_CALLS]weather[ARGS]{"city": "a"}[TOOL_CALLS]time[ARGS]{}', "", ["weather", "time"]),
        (f"<|python_tag|>{CALL}; {CALL}", "", ["weather"] * 2),
        # From a model whose marks are special tokens, which are no text.
        ('weather{"city": "a"}time{}', "", ["weather", "time"]),
        ("time[ARGS]{}", "", ["time"]),
        # The mark within an argument.
        (f"<tool_call>{MARK_INSIDE}</tool_call>!", "!", ["weather"]),
        (f"<tool_call>{MARK_INSIDE}</tool_call><tool_call>{CALL}</tool_call>", "", ["weather"] * 2),
        (f"<tool_call>{MARK_INSIDE}", "", ["weather"]),
        (f"[TOOL_CALLS][{MARK_INSIDE}, {CALL}]", "", ["weather"] * 2),
        # No calls.
        ("a < b <tool and 1 [TOOL", "a < b <tool and 1 [TOOL", []),
        ('{"name": "other", "arguments": {}}', '{"name": "other", "arguments": {}}', []),
        ('{"name": "weather", "argum', '{"name": "weather", "argum', []),
        ('<tool_call>{"name": ["x"], "arguments": {}}</tool_call>',) * 2 + ([],),
        ('{"function": {"name": {"a": 1}}}', '{"function": {"name": {"a": 1}}}', []),
        ("weather in Köln", "weather in Köln", []),
        ("weather{so}", "weather{so}", []),
        ("time {} is an empty object", "time {} is an empty object", []),
        ("time {}, weather is none", "time {}, weather is none", []),
        ("time {}. So.", "time {}. So.", []),
        ("time {}\nSo.", "\nSo.", ["time"]),
        ("other{}", "other{}", []),
        ('{"answer": 42}', '{"answer": 42}', []),
        ("<tool_call>nonsense</tool_call>!", "<tool_call>nonsense</tool_call>!", []),
        ('<tool_call>{"x</tool_call>!', '<tool_call>{"x</tool_call>!', []),
        (f'<tool_call>{{"x</tool_call>\n<tool_call>{CALL}</tool_call>', '<tool_call>{"x</tool_call>\n', ["weather"]),
        ('<tool_call>{"name": "time", "arguments": []}</tool_call>',) * 2 + ([],),
        ("  \n", "  \n", []),
    ],
)
def test_calls_in_a_text(text: str, content: str, names: list[str], size: int) -> None:
    parser = parser_of("weather", "time")
    parts = [part for at in range(0, len(text), size) for part in parser.push(text[at : at + size])]
    parts += parser.flush()
    assert (text_of(parts), [call.name for call in calls_of(parts)], parser.held) == (content, names, "")


@pytest.mark.parametrize("arguments", ["null", '""', '"null"', "{}", '"{}"'])
def test_a_call_without_arguments(arguments: str) -> None:
    text = f'<tool_call>{{"name": "time", "arguments": {arguments}}}</tool_call>'
    (call,) = calls_of(parser_of("time").push(text))
    assert (call.name, call.arguments) == ("time", "{}")


@pytest.mark.parametrize(
    ("mark", "head", "arguments", "tail"),
    [
        ("<tool_call>", '\n{"name": "weather", "arguments": ', '{"city": "a </tool_call> b", "n": [1]}', "}"),
        ("<tool_call>", '{"function": {"name": "weather", "parameters": ', r'{"city": "\"arguments\": {"}', "}}"),
        ("<tool_call>", '{"function": "weather", "arguments": ', '{"city": "<"}', "}"),
        ("[TOOL_CALLS]", '[{"name": "weather", "arguments": ', "{}", "}"),
        ("[TOOL_CALLS]", "weather[ARGS]", '{"city": "Köln"}', ""),
        ("<|python_tag|>", '{"type": "function", "name": "weather", "parameters": ', '{"city": "Köln"}', "}"),
        ("", '{"name":"weather","arguments":', '{"city":"Köln"}', "}"),  # where it must be one
    ],
)
@pytest.mark.parametrize("size", [1, 1000])
def test_a_call_that_is_cut_anywhere(mark: str, head: str, arguments: str, tail: str, size: int) -> None:
    text = mark + head + arguments + tail + ("</tool_call>" if mark == "<tool_call>" else "")
    named = len(mark) + (head.index('weather"') + len('weather"') if '"' in head else len(head))
    given, whole = len(mark + head), len(mark + head + arguments + tail)
    for length in range(len(mark), len(text) + 1):
        parser = parser_of("weather", "weather_tomorrow", must_call=not mark)
        parts = [part for at in range(0, length, size) for part in parser.push(text[at : min(at + size, length)])]
        parts += parser.flush("length")
        assert text_of(parts) == parser.held == ""
        calls = [(call.name, call.arguments) for call in calls_of(parts)]
        if length < whole:
            assert calls == ([("weather", arguments[: max(0, length - given)])] if length >= named else [])
            assert parser.finish_reason("length") == parser.finish_reason("stop") == "length"
        else:
            assert calls == [("weather", json.dumps(json.loads(arguments), ensure_ascii=False))]
            assert parser.finish_reason("length") == "tool_calls"


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize(
    ("text", "content", "calls", "reason"),
    [
        (
            f"So: <tool_call>{CALL}</tool_call>\n<tool_call>{CALL[:-3]}",
            "So: ",
            ['{"city": "Köln"}', '{"city": "Köln'],
            "length",
        ),
        (f'<tool_call>{CALL}</tool_call><tool_call>{{"name": "wea', "", ['{"city": "Köln"}'], "length"),
        (f"<tool_call>{CALL}</tool_call>\n<tool_c", "\n<tool_c", ['{"city": "Köln"}'], "tool_calls"),
        (f"[TOOL_CALLS][{CALL}, {CALL[:20]}", "", ['{"city": "Köln"}', ""], "length"),
        ('weather[ARGS]{"city": "a"}[TOOL_CALLS]wea', "", ['{"city": "a"}'], "length"),
        ('[TOOL_CALLS]weather[ARGS]{"city": "a"}[TOOL', "", ['{"city": "a"}'], "tool_calls"),
        (r'<tool_call>{"name": "weather", "arguments": "{\"city\": \"K', "", ['{"city": "K'], "length"),
        ('<tool_call>{"name": "weather", "arguments": nul', "", [""], "length"),
        (r'<tool_call>{"name": "weather", "arguments": "{\'city', "", [""], "length"),
        (r'<tool_call>{"name": "weather", "arguments": "\x', "", [""], "length"),
        (CALL[:-1], "", ['{"city": "Köln"}'], "length"),
        # Possibly a call, or none.
        (CALL[:10], CALL[:10], [], "length"),
        ("weather", "weather", [], "length"),
        ("<tool_call>nonsense", "<tool_call>nonsense", [], "length"),
        ('<tool_call>{"name": "other", "arg', '<tool_call>{"name": "other", "arg', [], "length"),
        ('<tool_call>{"name": "weather", arg', '<tool_call>{"name": "weather", arg', [], "length"),
        ('<tool_call>{"name": "weather", "x": "\n', '<tool_call>{"name": "weather", "x": "\n', [], "length"),
        ('{"name": "weather", "steps": ["loo', '{"name": "weather", "steps": ["loo', [], "length"),
        ("<tool", "<tool", [], "length"),
    ],
)
def test_an_answer_that_is_cut(
    url: str, answerer: ScriptedAnswerer, text: str, content: str, calls: list[str], reason: str, size: int
) -> None:
    answerer.script = [(text[at : at + size],) for at in range(0, len(text), size)]
    answerer.summary = replace(SUMMARY, finish_reason="length")
    (choice,) = post(url, CHAT, messages=HI, tools=[WEATHER]).json()["choices"]
    assert (choice["message"]["content"] or "", choice["finish_reason"]) == (content, reason)
    assert [call["function"]["arguments"] for call in choice["message"].get("tool_calls", [])] == calls
    streamed = [chunk["choices"][0] for chunk in chunks(url, CHAT, messages=HI, tools=[WEATHER])]
    assert "".join(one["delta"].get("content", "") for one in streamed) == content
    assert streamed[-1]["finish_reason"] == reason
    told = [call for one in streamed for call in one["delta"].get("tool_calls", [])]
    assert [(call["index"], call["function"]["arguments"]) for call in told] == list(enumerate(calls))


@pytest.mark.parametrize(("text", "calls"), [("", 0), ('{"name":"wea', 0), ('{"name":"weather","arguments":{"ci', 1)])
@pytest.mark.parametrize("cut", [{"finish_reason": "length"}, {"finish_reason": "stop"}])
def test_a_call_that_must_be_is_never_content(
    url: str, answerer: ScriptedAnswerer, text: str, calls: int, cut: dict[str, Any]
) -> None:
    """The limit or a stop string cuts it."""
    answerer.script, answerer.summary = [(text,)], replace(SUMMARY, **cut)
    asked: dict[str, Any] = {"messages": HI, "tools": [WEATHER], "tool_choice": "required"}
    (choice,) = post(url, CHAT, **asked).json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (None if calls else "", "length")
    assert len(choice["message"].get("tool_calls", [])) == calls
    streamed = [chunk["choices"][0] for chunk in chunks(url, CHAT, **asked)]
    assert not any(one["delta"].get("content") for one in streamed) and streamed[-1]["finish_reason"] == "length"
    assert sum(len(one["delta"].get("tool_calls", [])) for one in streamed) == calls


def test_what_the_model_ended_itself_is_not_cut(url: str, answerer: ScriptedAnswerer) -> None:
    answerer.script = [("That is written <tool_call>",)]
    (choice,) = post(url, CHAT, messages=HI, tools=[WEATHER], stop=["x"]).json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("That is written <tool_call>", "stop")


def test_only_the_first_of_calls_that_are_cut() -> None:
    parser = parser_of("weather", parallel=False)
    assert len(parser.push(f"<tool_call>{CALL}</tool_call><tool_call>{CALL[:-3]}")) == 1
    assert parser.flush("length") == [] and parser.finish_reason("length") == "tool_calls"


def test_text_that_is_no_call_is_not_held_back() -> None:
    parser = parser_of("python")
    shown = "".join(text_of(parser.push(message)) for message in "python{x for x in y} and more")
    assert shown.startswith("python{x for x in y}")
