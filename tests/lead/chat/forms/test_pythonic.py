"""Calls as Python and Gemma write them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.forms import Part, parsed

TIME: Part = ("call", "time", {}, True)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ('"x"', "x"),
        ("'x'", "x"),
        (r"'it\'s'", "it's"),
        (r'"a\nb\t\"c\" \\ \u00e9 \x41"', 'a\nb\t"c" \\ é A'),
        (r'"\ud83d\ude00 \ud800"', "😀 \ufffd"),
        (r'"C:\dir"', r"C:\dir"),
        ('"two\nlines"', "two\nlines"),
        ('"a) b] c, d=(\'"', "a) b] c, d=('"),
        ('"12"', "12"),
        ('""', ""),
        ("''", ""),
        ('"""a "b" \'c\'\nd"""', "a \"b\" 'c'\nd"),
        ("'''it's '' so'''", "it's '' so"),
        (r'"""a\n\"""b"""', 'a\n"""b'),
        ('""""""', ""),
    ],
)
def test_strings(written: str, value: Any) -> None:
    text = f"[weather(city={written})]"
    for cuts in ((), range(1, len(text))):
        assert parsed("pythonic", text, cuts).parts == [("call", "weather", {"city": value}, True)]


@pytest.mark.parametrize(
    ("key", "written", "value"),
    [
        ("days", "3", 3),
        ("days", "+3", 3),
        ("days", "'3'", 3),
        ("exact", "True", True),
        ("exact", "false", False),
        ("tags", "['a', \"b\",]", ["a", "b"]),
        ("tags", "('a', 'b')", ["a", "b"]),
        ("place", "{'x': .5, 'note': None}", {"x": 0.5, "note": None}),
        ("place", '{"x": -1e3, "note": null}', {"x": -1000.0, "note": None}),
    ],
)
def test_other_values(key: str, written: str, value: Any) -> None:
    assert parsed("llama3", f'[weather(city="a", {key}={written})]').calls == [("weather", {"city": "a", key: value})]


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("pythonic", "[time()]"),
        ("pythonic", "[ time( ) , ]"),
        ("pythonic", "<|python_start|>[time()]<|python_end|>"),
        ("pythonic", "<|python_start|>time()"),
        ("llama3", "<|python_tag|>time()"),
        ("llama3", '<|python_tag|>{"name": "time", "parameters": {}}'),
        ("llama3", '{"type": "function", "name": "time", "parameters": {}}'),
        ("gemma3", "```tool_code\ntime()\n```"),
        ("gemma3", "```tool_code\nprint(time())\n```"),
        ("gemma3", "```tool_code\n[time()]\n```\n"),
        ("gemma4", "<|tool_call>call:time{}<tool_call|>"),
        ("gemma4", "<|tool_call>call:time{ }"),
        ("functiongemma", "<start_function_call>call:time{}<end_function_call>"),
    ],
)
def test_spellings(form: str, text: str) -> None:
    assert parsed(form, text).parts == parsed(form, text, range(1, len(text))).parts == [TIME]


def test_values_without_a_key_have_their_place_in_the_schema() -> None:
    assert parsed("pythonic", '[weather("a", 2)]').calls == [("weather", {"city": "a", "days": 2})]
    assert not parsed("pythonic", "[time(2)]").calls


@pytest.mark.parametrize(
    "text",
    [
        "[1] is a footnote",
        "[link](http://a.b)",
        "[weather]",
        "[weather(city)]",
        "[weather(city='a'",
        "[weather(city='a')) ]",
        "[weather(city=open('x'))]",
        "[weather(city=a + b)]",
        "[other()]",
        "[time(), other()]",
        "say [time()] so",
        "```python\nprint('time()')\n```",
        "```tool_code\nx = 1\n```",
        f"[weather(city={'[' * 200})]",
    ],
)
def test_what_is_no_call_is_text(text: str) -> None:
    for form in ("pythonic", "llama3"):
        assert parsed(form, text).parts == parsed(form, text, range(1, len(text))).parts == [("text", text)]


def test_gemmas_values() -> None:
    text = (
        '<|tool_call>call:weather{city:<|"|>a "b", {c}<|"|>,days:3,exact:true,place:{x:1.5,note:<|"|><|"|>},'
        'tags:[<|"|>x<|"|>]}<tool_call|>'
    )
    given = {"city": 'a "b", {c}', "days": 3, "exact": True, "place": {"x": 1.5, "note": ""}, "tags": ["x"]}
    for cuts in ((), range(1, len(text))):
        assert parsed("gemma4", text, cuts).calls == [("weather", given)]
