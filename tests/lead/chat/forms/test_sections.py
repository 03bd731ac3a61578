"""Calls of Mistral, Kimi and DeepSeek, with what their templates differ in."""

from __future__ import annotations

import pytest

from lead.chat.forms import FORMS
from lead.chat.parser import parser_for
from lead.chat.parts import Call
from tests.support.forms import TOOLS, Part, parsed

TIME: Part = ("call", "time", {}, True)


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("mistral", "[TOOL_CALLS]time[ARGS]{}"),
        ("mistral", "[TOOL_CALLS]time[CALL_ID]aB3dE6gH9[ARGS]{}"),
        ("mistral", "[TOOL_CALLS]time{}"),
        ("mistral", '[TOOL_CALLS] [{"name": "time", "arguments": {}, "id": "aB3dE6gH9"}]'),
        ("mistral", '[TOOL_CALLS][{"arguments": {}, "name": "time"}'),
        ("kimi-k2", "<|tool_call_begin|>functions.time:0<|tool_call_argument_begin|>{}<|tool_call_end|>"),
        ("kimi-k2", "<|tool_calls_section_begin|><|tool_call_begin|>time<|tool_call_argument_begin|> {}"),
        ("deepseek-v3", "<｜tool▁calls▁begin｜>function<｜tool▁sep｜>time\n```json\n{}\n```<｜tool▁call▁end｜>"),
        ("deepseek-v3.1", "<｜tool▁calls▁begin｜>\ntime<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"),
        ("deepseek-v3", "<｜tool▁call▁begin｜>time<｜tool▁sep｜>{}<｜tool▁call▁end｜>"),
        ("deepseek-v3", "<｜tool▁calls▁begin｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>time\n```json\n{}\n```"),
        ("deepseek-v3.1", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>time<｜tool▁sep｜>\n{}\n<｜tool▁call▁end｜>"),
    ],
)
def test_spellings(form: str, text: str) -> None:
    assert parsed(form, text).parts == parsed(form, text, range(1, len(text))).parts == [TIME]


def test_the_models_own_ids_stay() -> None:
    def ids(form: str, text: str) -> list[str]:
        parts = parser_for(FORMS[form], TOOLS).push(text)
        return [part.id for part in parts if isinstance(part, Call)]

    kimi = "<|tool_call_begin|>functions.time:{}<|tool_call_argument_begin|>{{}}<|tool_call_end|>"
    two = ids("kimi-k2", "<|tool_calls_section_begin|>" + kimi.format(3) + kimi.format(4))
    assert two == ["functions.time:3", "functions.time:4"]
    first, second = ids("kimi-k2", "<|tool_calls_section_begin|>" + kimi.format(0) + kimi.format(0))
    assert first == "functions.time:0" != second
    mistral = "[TOOL_CALLS]time[CALL_ID]aB3dE6gH9[ARGS]{}[TOOL_CALLS]time[ARGS]{}"
    given, made = ids("mistral", mistral)
    assert given == "aB3dE6gH9" and len(made) == 9 and made.isalnum()


def test_nonsense_after_a_call_is_text_and_the_call_stays() -> None:
    text = '[TOOL_CALLS][{"name": "time", "arguments": {}}, nonsense]'
    assert parsed("mistral", text).parts == [TIME, ("text", ", nonsense]")]
    text = (
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.time:0<|tool_call_argument_begin|>{}<|tool_call_end|>"
    )
    assert parsed("kimi-k2", text + "<|tool_call_begin|>x").parts == [TIME, ("text", "<|tool_call_begin|>x")]


def test_cuts_within_the_second_call() -> None:
    text = '[TOOL_CALLS]time[ARGS]{}[TOOL_CALLS]weather[ARGS]{"city": "K'
    found = parsed("mistral", text, reason="length")
    assert found.parts == [TIME, ("call", "weather", '{"city": "K', False)] and found.finish == "length"
