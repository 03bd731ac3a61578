"""Calls in tags, as models write them and as they get them wrong."""

from __future__ import annotations

import re
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


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("<parameter=s>\na\n<parameter=i>\n2\n</parameter>\n</function>\n</tool_call>", {"s": "a", "i": 2}),
        ("<parameter=i>\n2\n<parameter=s>\na\n</function>\n</tool_call>", {"i": 2, "s": "a"}),
        ("<parameter=s>\na\n</function>", {"s": "a"}),
        # What else looks like a mark belongs to the value.
        ("<parameter=s>\n<parameter=s>\na\n</parameter>\n</function>", {"s": "<parameter=s>\na"}),
        ("<parameter=s>\n<parameter=x>\n</parameter>\n</function>", {"s": "<parameter=x>"}),
        ("<parameter=s>\na <parameter=i>\n</parameter>\n</function>", {"s": "a <parameter=i>"}),
        ("<parameter=s>\na\n</function>\nb\n</parameter>\n</function>", {"s": "a\n</function>\nb"}),
        ("<parameter=s>\na\n</function>\n</parameter>\n</function>", {"s": "a\n</function>"}),
    ],
)
def test_a_forgotten_mark_after_a_value(text: str, given: Any) -> None:
    text = f"<tool_call>\n<function=f>\n{text}"
    for cuts in ((), range(1, len(text))):
        assert parsed("qwen3-coder", text, cuts, tools=TOOLS).parts == [("call", "f", given, True)]
    invoke = text.replace("<tool_call>", "<minimax:tool_call>").replace("</tool_call>", "</minimax:tool_call>")
    for tag in ("parameter", "function"):
        invoke = re.sub(rf"<{tag}=(\w+)>\n?", rf'<{tag} name="\1">', invoke)
    invoke = re.sub(r"(</?)function", r"\1invoke", invoke)
    found = parsed("minimax", invoke, tools=TOOLS).calls
    assert len(found) == 1 and found[0][1].keys() == given.keys()


def dsml(*values: tuple[str, bool, str]) -> str:
    written = "".join(
        f'<｜DSML｜parameter name="{key}" string="{str(string).lower()}">{value}</｜DSML｜parameter>\n'
        for key, string, value in values
    )
    invoke = f'<｜DSML｜invoke name="f">\n{written}</｜DSML｜invoke>'
    return f"<｜DSML｜function_calls>\n{invoke}\n</｜DSML｜function_calls>"


@pytest.mark.parametrize(
    ("key", "string", "written", "value"),
    [
        ("s", True, "12", "12"),
        ("s", True, "\n x\n", "\n x\n"),
        ("s", False, "12", "12"),
        ("s", False, '"12"', "12"),
        ("any", True, "12", "12"),
        ("any", True, "null", "null"),
        ("any", False, "12", 12),
        ("any", False, '"a\\n"', "a\n"),
        ("any", False, "words", "words"),
        ("unknown", True, "true", "true"),
        ("unknown", False, "true", True),
        ("maybe", True, "null", "null"),
        ("maybe", False, "null", None),
        ("i", True, "12", 12),
        ("i", False, "12", 12),
        ("o", False, '{"a": ["</｜DSML｜parameter>"]}', {"a": ["</｜DSML｜parameter>"]}),
        ("l", False, "[" * 100_000, "[" * 100_000),
        ("any", False, "NaN", "NaN"),
    ],
)
def test_values_of_which_the_model_tells_the_type(key: str, string: bool, written: str, value: Any) -> None:
    assert parsed("deepseek-v3.2", dsml((key, string, written)), tools=TOOLS).calls == [("f", {key: value})]


@pytest.mark.parametrize(
    "text",
    [
        dsml(("s", True, "x")).replace("string", "text"),
        dsml(("s", True, "x")).replace(' string="true"', ""),
        dsml(("s", True, "x")).replace('"true"', '"maybe"'),
        dsml(("s", True, "x")).replace('"f"', '"h"'),
        dsml(("s", True, "x")).replace("invoke", "invite"),
    ],
)
def test_what_is_no_call_of_dsml_is_text(text: str) -> None:
    for cuts in ((), range(1, len(text))):
        assert parsed("deepseek-v3.2", text, cuts, tools=TOOLS).parts == [("text", text)]


def test_a_function_of_dsml_without_its_section() -> None:
    text = dsml(("s", True, "x"))
    text = text[text.index("\n") + 1 : text.rindex("\n")]
    assert parsed("deepseek-v3.2", f"{text}\n{text}!", tools=TOOLS).parts == [
        ("call", "f", {"s": "x"}, True),
        ("call", "f", {"s": "x"}, True),
        ("text", "!"),
    ]


def test_a_cut_value_of_dsml() -> None:
    text = dsml(("any", True, 'say "hi"'), ("s", False, '"x"'), ("i", True, "12"))
    for end, expected in [
        ('"hi', '{"any": "say \\"hi'),
        ('"hi"</', '{"any": "say \\"hi\\"'),
        ('"x', '{"any": "say \\"hi\\""'),
        ("12", '{"any": "say \\"hi\\"", "s": "x"'),
    ]:
        cut = parsed("deepseek-v3.2", text[: text.index(end) + len(end)], reason="length", tools=TOOLS)
        assert cut.parts == [("call", "f", expected, False)] and cut.finish == "length"


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
