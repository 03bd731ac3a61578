"""Calls in tags, as models write them and as they get them wrong."""

from __future__ import annotations

from typing import Any

import pytest

from lead.chat.conversation import Tool
from tests.support.forms import STRING, parsed

PROPERTIES: dict[str, Any] = {
    "s": STRING,
    "i": {"type": "integer"},
    "f": {"type": "number"},
    "b": {"type": "boolean"},
    "o": {"type": "object"},
    "l": {"type": "array"},
    "maybe": {"anyOf": [STRING, {"type": "null"}]},
    "number": {"type": ["integer", "null"]},
    "kind": {"$ref": "#/$defs/kind"},
    "any": {},
}
FUNCTION = Tool("f", parameters={"type": "object", "properties": PROPERTIES, "$defs": {"kind": {"enum": [1, 2]}}})
TOOLS = (FUNCTION, Tool("g"))


def qwen(*values: tuple[str, str]) -> str:
    written = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in values)
    return f"<tool_call>\n<function=f>\n{written}</function>\n</tool_call>"


def glm(*values: tuple[str, str]) -> str:
    written = "".join(f"<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>\n" for key, value in values)
    return f"<tool_call>f\n{written}</tool_call>"


@pytest.mark.parametrize("write", [qwen, glm])
@pytest.mark.parametrize(
    ("key", "written", "value"),
    [
        ("s", "12", "12"),
        ("s", "true", "true"),
        ("s", '{"a": 1}', '{"a": 1}'),
        ("s", "  two words ", "  two words "),
        ("s", "", ""),
        ("s", "x\n\ny", "x\n\ny"),
        ("s", "a < b && c > d </p> <parameter>", "a < b && c > d </p> <parameter>"),
        ("i", "12", 12),
        ("i", " -3 ", -3),
        ("i", "many", "many"),
        ("f", "1.5", 1.5),
        ("f", "2", 2),
        ("b", "true", True),
        ("b", "False", False),
        ("o", '{"a": [1, {"b": "</parameter>"}]}', {"a": [1, {"b": "</parameter>"}]}),
        ("l", '["x", 1]', ["x", 1]),
        ("l", "[1, 2", "[1, 2"),
        ("maybe", "null", None),
        ("maybe", "None", None),
        ("maybe", "text", "text"),
        ("maybe", "5", "5"),
        ("number", "5", 5),
        ("number", "null", None),
        ("kind", "2", 2),
        ("any", "5", 5),
        ("any", "words", "words"),
        ("unknown", '{"a": 1}', {"a": 1}),
    ],
)
def test_values_have_the_type_of_the_schema(write: Any, key: str, written: str, value: Any) -> None:
    assert parsed("qwen3-coder", write((key, written)), tools=TOOLS).calls == [("f", {key: value})]


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call><function=f><parameter=s>x</parameter></function></tool_call>",
        "<function=f>\n<parameter=s>\nx\n</parameter>\n</function>\n</tool_call>",  # the first mark is forgotten
        "<function=f>\n<parameter=s>\nx\n</parameter>\n</function>",
        "<tool_call>\n<function=f>\n<parameter=s>\nx\n</parameter>\n</function>",
        "<tool_call>\n<function=f>\n<parameter=s>\nx\n</parameter>\n</fun",
        '<function=f>{"s": "x"}</function>',  # Llama 3.1
        "<tool_call>f<arg_key>s</arg_key><arg_value>x</arg_value></tool_call>",
        '<tool_call>{"name": "f", "arguments": {"s": "x"}}</tool_call>',
        '<tool_call>\n{"function": "f", "parameters": {"s": "x"}}',
    ],
)
def test_spellings_of_a_call(text: str) -> None:
    for form in ("hermes", "qwen3-coder", "glm"):
        assert parsed(form, text, tools=TOOLS).parts == [("call", "f", {"s": "x"}, True)]
        assert parsed(form, text, range(1, len(text)), tools=TOOLS).parts == [("call", "f", {"s": "x"}, True)]


def test_several_functions_in_one_tag() -> None:
    text = "<tool_call><function=g></function>\n<function=f><parameter=i>1</parameter></function></tool_call>!"
    found = parsed("qwen3-coder", text, tools=TOOLS)
    assert found.parts == [("call", "g", {}, True), ("call", "f", {"i": 1}, True), ("text", "!")]
    text = '<tool_call>{"name": "g", "arguments": {}}\n{"name": "f", "arguments": {"i": 1}}</tool_call>'
    assert parsed("hermes", text, tools=TOOLS).calls == [("g", {}), ("f", {"i": 1})]


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>nothing</tool_call>",
        "<tool_call><function=h></function></tool_call>",
        "<tool_call><function=f>nonsense</function></tool_call>",
        "<tool_call><function=f><parameter=s>x</parameter>and more</function></tool_call>",
        "<tool_call>g and text</tool_call>",
        "<tool_call></tool_call>",
        '<tool_call>{"name": "g", "arguments": {}} and text</tool_call>',
        '<tool_call>{"name": "g", "arguments": {},}</tool_call>',
        "The mark is <tool_call>, the end is </tool_call>, and <function= too.",
    ],
)
def test_what_is_no_call_is_text(text: str) -> None:
    for form in ("hermes", "qwen3-coder", "glm"):
        assert parsed(form, text, tools=TOOLS).parts == [("text", text)]
        assert parsed(form, text, range(1, len(text)), tools=TOOLS).parts == [("text", text)]


def test_a_cut_value() -> None:
    text = qwen(("s", 'say "hi"'), ("i", "12"))
    cut = parsed("qwen3-coder", text[: text.index(' "hi') + 3], reason="length", tools=TOOLS)
    assert cut.parts == [("call", "f", '{"s": "say \\"h', False)] and cut.finish == "length"
    cut = parsed("qwen3-coder", text[: text.index("12") + 1], reason="length", tools=TOOLS)
    assert cut.parts == [("call", "f", '{"s": "say \\"hi\\""', False)]
    assert parsed("qwen3-coder", text[:30], tools=TOOLS).parts == [("text", text[:30])]
