"""Every form: calls, thinking and text, cut anywhere; what is no call is text."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lead.chat.conversation import Tool
from lead.chat.forms import FORMS
from lead.chat.forms.form import Thinking
from lead.chat.forms.table import THINKING
from lead.chat.parser import parser_for
from tests.support.forms import KEY_ENDS, STRING, TOOLS, WRITE, Outcome, parsed, says, thinks

CALLS = [("weather", {"city": "Köln", "days": 3, "exact": True}), ("time", {})]
ALL = sorted(FORMS)
ANYWHERE = sorted(set(ALL) - {"llama3", "json", "pythonic", "gemma3"})
"""Forms whose calls may follow text on the same line."""


def outcome(*parts: Any, finish: str = "tool_calls") -> Outcome:
    return Outcome(list(parts), finish)


def call(name: str, arguments: Any = None, whole: bool = True) -> tuple[str, str, Any, bool]:
    return "call", name, {} if arguments is None else arguments, whole


WEATHER, TIME = call(*CALLS[0]), call("time")


def check_cuts(form: str, text: str, expected: Outcome, **asked: Any) -> None:
    """The same in one piece, letter by letter, and in two pieces cut anywhere."""
    assert parsed(form, text, **asked) == expected
    assert parsed(form, text, range(1, len(text)), **asked) == expected
    for at in range(len(text) + 1):
        assert parsed(form, text, [at], **asked) == expected


@pytest.mark.parametrize("form", ALL)
def test_calls_in_the_models_own_form(form: str) -> None:
    check_cuts(form, WRITE[form](CALLS), outcome(WEATHER, TIME))
    check_cuts(form, WRITE[form](CALLS[1:]), outcome(TIME))


@pytest.mark.parametrize("form", ALL)
def test_thinking_and_text_before_calls(form: str) -> None:
    written = thinks(FORMS[form], "Where?\nThere.") + says(FORMS[form], "I look.\n") + WRITE[form](CALLS)
    check_cuts(form, written, outcome(("thought", "Where?\nThere."), ("text", "I look.\n"), WEATHER, TIME))


@pytest.mark.parametrize("form", sorted(set(ANYWHERE) - {"gpt-oss"}))
def test_calls_between_text_and_in_thinking(form: str) -> None:
    (open, close), one = FORMS[form].thinking, WRITE[form](CALLS[:1])
    check_cuts(form, f"A {one} B", outcome(("text", "A "), WEATHER, ("text", " B")))
    # Thinking that ends in a call without its mark, and a call within thinking.
    check_cuts(form, f"{open}Hm. {one}", outcome(("thought", "Hm."), WEATHER))
    within = outcome(("thought", "Hm."), WEATHER, ("thought", "So."), ("text", "It is."))
    check_cuts(form, f"{open}\nHm.\n{one}\nSo.\n{close}\n\nIt is.", within)
    check_cuts(form, f"Hm.{one}", outcome(("thought", "Hm."), WEATHER), thinking_open=True)
    check_cuts(form, f"Hm.\n{close}\n{one}", outcome(("thought", "Hm."), WEATHER), thinking_open=True)


@pytest.mark.parametrize("form", ALL)
def test_other_tools_and_nonsense_are_text(form: str) -> None:
    tools = (Tool("other"),)
    for text in (WRITE[form](CALLS), WRITE[form](CALLS[1:]), WRITE[form](CALLS)[:-3]):
        said = re.sub(r"(<\|channel\|>|<\|start\|>).*?<\|message\|>|<\|call\|?>?", "", text)
        check_cuts(form, text, outcome(("text", said if FORMS[form].channels else text), finish="stop"), tools=tools)
    for text in (f"{mark}nonsense" for mark in FORMS[form].blocks):
        check_cuts(form, text, outcome(("text", text), finish="stop"))


@pytest.mark.parametrize("form", ALL)
def test_a_cut_call_is_not_whole(form: str) -> None:
    text = WRITE[form](CALLS[:1])
    seen = set()
    for length in range(1, len(text)):
        one = parsed(form, text[:length], range(1, length), reason="length")
        assert one == parsed(form, text[:length], reason="length")
        for part in one.parts:
            if len(part) == 4 and not part[3]:
                assert part[1] == "weather" and one.finish == "length"
                assert json.dumps(CALLS[0][1], ensure_ascii=False).startswith(part[2])
                seen.add(part[2])
    assert len(seen) >= 3


@pytest.mark.parametrize("form", ALL)
def test_only_one_call_where_they_are_not_parallel(form: str) -> None:
    assert parsed(form, WRITE[form](CALLS), parallel=False) == outcome(WEATHER)


@pytest.mark.parametrize("form", sorted(set(ALL) - {"gpt-oss"}))
def test_thinking_may_stay_in_the_text(form: str) -> None:
    open, close = FORMS[form].thinking
    text = f"{open}\nHm.\n{close}\n\nSo."
    for tools in (TOOLS, ()):
        check_cuts(form, text, outcome(("text", text), finish="stop"), tools=tools, keep_thinking=True)


UNITS = ["<", "<tool_call>{", "</parameter>", "<|channel|>", '"', "\n"]


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 1 << 20])
@pytest.mark.parametrize("form", ["hermes", "qwen3-coder", "gpt-oss", "gemma4"])
def test_long_answers_take_no_quadratic_time(form: str, size: int) -> None:
    """Letter by letter and in one piece, within a value and outside of calls."""
    inside = WRITE[form]([("weather", {"city": "MIDDLE"})])
    for start in ("", inside[: inside.index("MIDDLE")]):
        for unit in UNITS:
            text = start + unit * ((20_000 if size == 1 else 60_000) // len(unit))
            parser, begun = parser_for(FORMS[form], TOOLS), time.process_time()
            parts = [part for at in range(0, len(text), size) for part in parser.push(text[at : at + size])]
            parts += parser.flush("stop")
            assert time.process_time() - begun < 3, (start, unit)
            assert parts


# -- Any calls -----------------------------------------------------------------------------------------------------

MARKS = [
    "<tool_call>",
    "</tool_call>",
    "[TOOL_CALLS]",
    "```",
    '"',
    "\\",
    "{",
    "}",
    "[",
    "'",
    "<",
    "</",
    "<think>",
    "\n",
]


def any_tools(key: str) -> tuple[Tool, ...]:
    """Tools of which one has a string with this key."""
    properties = {"s": STRING, key: STRING, "o": {"type": "object"}, "l": {"type": "array"}}
    return (Tool("any", parameters={"type": "object", "properties": properties}), *TOOLS)


Strategy = st.SearchStrategy[tuple[str, Any]]
KEY = "the key"
"""Stands for any key."""
KEYS = st.one_of(
    st.sampled_from(["a", "b c", "é", "$filter", "2fa", "a.b", "@type", "a:b", "-a", " a ", "class"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
)


@cache
def calls_in(form: str) -> Strategy:
    """Any calls. Their strings hold marks of this form and of others."""
    marks = st.sampled_from([*MARKS, *FORMS[form].written])
    letters = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
    strings = st.lists(st.one_of(marks, letters), max_size=4).map("".join)
    scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False))
    values: st.SearchStrategy[Any] = st.recursive(
        st.one_of(scalars, strings),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
        max_leaves=6,
    )
    optional: dict[Any, Any] = {
        "s": strings,
        KEY: strings,
        "o": st.dictionaries(KEYS, values, max_size=3),
        "l": st.lists(values, max_size=3),
    }
    return st.one_of(
        st.tuples(st.just("any"), st.fixed_dictionaries({}, optional=optional)), st.just(("time", dict[str, Any]()))
    )


WORDS = st.text(st.sampled_from("ab é.\n\t{["), max_size=8)
UNWRITABLE = {
    "qwen3-coder": ("</parameter>",), "seed": ("</parameter>",), "minimax": ("</parameter>",), "glm": ("</arg_value>",),
    "deepseek-v3.2": ("</｜DSML｜parameter>",), "deepseek-v4": ("</｜DSML｜parameter>",),
    "gemma4": ('<|"|>',), "functiongemma": ("<escape>",),
}  # fmt: skip


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.data())
@pytest.mark.parametrize("form", ALL)
def test_any_calls_cut_anywhere(form: str, data: st.DataObject) -> None:
    key = data.draw(KEYS.filter(lambda key: key not in "ol" and KEY_ENDS.get(form, "\n\n") not in key))
    drawn = data.draw(st.lists(calls_in(form), min_size=1, max_size=3))
    calls = [(name, {key if each == KEY else each: value for each, value in given.items()}) for name, given in drawn]
    thought, text = (
        data.draw(WORDS),
        # A line that begins so may be the beginning of a call without marks.
        data.draw(WORDS.filter(lambda text: not any(line.strip()[:1] in ("{", "[") for line in text.splitlines()))),
    )
    assume(not any(mark in json.dumps(calls, ensure_ascii=False) for mark in UNWRITABLE.get(form, ())))
    before = f"{says(FORMS[form], text)}\n" if text.strip() and not FORMS[form].channels else ""
    written = thinks(FORMS[form], thought) + before + WRITE[form](calls)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(written)), max_size=5)))
    whole = parsed(form, written, tools=any_tools(key))
    assert parsed(form, written, cuts, tools=any_tools(key)) == whole
    assert whole.calls == [(name, dict(given)) for name, given in calls]
    assert whole.joined("thought").strip() == thought.strip()
    assert whole.joined("text").strip() == text.strip() if before else not whole.joined("text").strip()


@settings(max_examples=80, deadline=None)
@given(st.data())
@pytest.mark.parametrize("form", ALL)
def test_anything_cut_anywhere(form: str, data: st.DataObject) -> None:
    """Marks and pieces of calls in any order: the same for every cut, and no exception."""
    written = WRITE[form](CALLS)
    pieces = [written[at : at + 7] for at in range(0, len(written), 7)]
    marks = [*FORMS[form].written, *pieces, *MARKS, "weather", " ", "\n", "{}", '{"name": "weather", "arguments": {}}']
    text = "".join(data.draw(st.lists(st.sampled_from(marks), max_size=12)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    reason = data.draw(st.sampled_from(["stop", "length"]))
    asked: dict[str, Any] = {
        "reason": reason,
        "keep_thinking": data.draw(st.booleans()),
        "thinking_open": data.draw(st.booleans()),
        "must_call": data.draw(st.booleans()),
    }
    assert parsed(form, text, cuts, **asked) == parsed(form, text, **asked)


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(st.data())
@pytest.mark.parametrize("form", ALL)
def test_a_damaged_call_is_a_call_or_text(form: str, data: st.DataObject) -> None:
    """Garbage within a call, or in place of its end: no letter is lost where no call is left."""
    written = WRITE[form](CALLS[: data.draw(st.integers(1, 2))])
    begin = data.draw(st.integers(0, len(written)))
    end = data.draw(st.integers(begin, len(written)))
    garbage = data.draw(st.text(st.sampled_from("ab{}[]()<>\"'`\\:;,=/|_ \n\0é日😀"), max_size=8))
    text = written[:begin] + garbage + written[end:]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    for reason in ("stop", "length"):
        assert parsed(form, text, cuts, reason) == parsed(form, text, reason=reason)
    found = parsed(form, text)
    assert all(isinstance(given, dict) for _, given in found.calls)
    assert found.calls or FORMS[form].channels or found.joined("text") == text


# -- Thinking --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tools", [TOOLS, ()])
@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("<think>Hm.</think>So.", [("thought", "Hm."), ("text", "So.")]),
        ("\n<think>\nHm.\n\nYes.\n</think>\n\nSo. ", [("thought", "Hm.\n\nYes."), ("text", "So. ")]),
        ("<think></think>So.", [("text", "So.")]),
        ("<think>\n\n</think>\n\nSo.", [("text", "So.")]),
        ("<think>Hm.", [("thought", "Hm.")]),
        ("<think>a </thin b</think>c", [("thought", "a </thin b"), ("text", "c")]),
        ("</think>So.", [("text", "So.")]),
        # A model that is not known to think may speak of the marks.
        ("It is <think>so</think>.", [("text", "It is <think>so</think>.")]),
        ("< think", [("text", "< think")]),
    ],
)
def test_thinking_without_calls(text: str, parts: list[Any], tools: tuple[Tool, ...]) -> None:
    check_cuts("hermes", text, outcome(*parts, finish="stop"), tools=tools)


@pytest.mark.parametrize("marks", THINKING, ids=lambda marks: marks.open.strip())
def test_the_marks_of_all_models_that_think(marks: Thinking) -> None:
    form = replace(FORMS["hermes"], thinking=marks, declared=True)
    call = WRITE["hermes"](CALLS[:1])
    for text, parts in [
        (f"{marks.open}Hm.{marks.close}So.", [("thought", "Hm."), ("text", "So.")]),
        (f"{marks.open}Hm.{marks.close}\n{call}", [("thought", "Hm."), WEATHER]),
        (f"{marks.open}Hm. {call}", [("thought", "Hm."), WEATHER]),
    ]:
        for at in range(len(text) + 1):
            assert parsed(form, text, [at]).parts == parts
        assert parsed(form, text, range(1, len(text))).parts == parts


def test_thinking_anywhere_in_a_model_that_thinks() -> None:
    form = replace(FORMS["hermes"], declared=True)
    assert parsed(form, "A <think>b</think> c <think>d").parts == [
        ("text", "A "),
        ("thought", "b"),
        ("text", "c "),
        ("thought", "d"),
    ]
    assert parsed(form, "The mark `<think>` begins it.").parts == [("text", "The mark `<think>` begins it.")]


def test_a_parser_says_when_all_is_text() -> None:
    parser = parser_for(FORMS["hermes"], ())
    assert not parser.plain
    parser.push("Hi")
    assert parser.plain
    assert not parser_for(FORMS["hermes"], TOOLS).plain
    parser = parser_for(FORMS["hermes"], (), thinking_open=True)
    parser.push("Hm")
    assert not parser.plain
    parser.push("</think>So")
    assert parser.plain
