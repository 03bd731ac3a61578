"""Which form a template and a vocabulary show."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from duo.errors import ModelError
from lead.chat.forms import FORMS, form_of
from tests.support.bytes_vocabulary import ByteVocabulary
from tests.support.forms import WRITE

CALLS = [("f", {"a": 1})]


@pytest.mark.parametrize("form", sorted(set(FORMS) - {"json"}))
def test_a_template_shows_its_form(form: str) -> None:
    example = {
        "pythonic": "[func_name1(a=1), func_name2()]",
        "mistral-list": '"[TOOL_CALLS] ["',
        "llama3": '<|start_header_id|> "parameters": ',
    }
    template = "{% for tool in tools %}..{% endfor %}" + example.get(form, WRITE[form](CALLS))
    assert form_of(ByteVocabulary(template=template)).name == form


@pytest.mark.parametrize(
    ("special", "form"),
    [
        (["<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"], "kimi-k2"),
        (["<｜tool▁calls▁begin｜>"], "deepseek-v3.1"),
        (["<｜tool▁calls▁begin｜>", "｜DSML｜"], "deepseek-v3.2"),
        (["<|START_ACTION|>"], "command-r7b"),
        (["[TOOL_CALLS]"], "mistral-list"),
        (["[TOOL_CALLS]", "[ARGS]"], "mistral"),
        (["<|python_tag|>"], "llama3"),
        (["<|im_start|>"], "hermes"),
    ],
)
def test_a_template_that_takes_tools_and_writes_no_calls(special: list[str], form: str) -> None:
    assert form_of(ByteVocabulary(special, "{{ tools | tojson }}")).name == form
    assert form_of(ByteVocabulary(special, "{{ messages }}")).name == "hermes"


@pytest.mark.parametrize(
    ("template", "special", "texts", "thinking", "declared"),
    [
        ("{{ '<think>' }}", [], [], "<think>", True),
        ("content.split('</think>')", [], [], "<think>", True),
        ("<seed:tool_call> <seed:think>", [], [], "<seed:think>", True),
        ("[TOOL_CALLS] [THINK]", ["[THINK]", "[/THINK]"], [], "[THINK]", True),
        ("messages", ["[THINK]", "[/THINK]"], [], "[THINK]", True),
        ("messages", [], ["<think>", "</think>"], "<think>", True),
        ("<|tool_call> <|channel>thought", ["<|channel>", "<channel|>"], [], "<|channel>thought\n", True),
        ("messages", [], [], "<think>", False),
    ],
)
def test_marks_of_thinking(template: str, special: list[str], texts: list[str], thinking: str, declared: bool) -> None:
    form = form_of(ByteVocabulary(special, template, texts))
    assert (form.thinking.open, form.declared) == (thinking, declared)
    assert form.thinking_open(f"user: hi{thinking}\n") and not form.thinking_open(f"{thinking}{form.thinking.close}")
    assert form.thinking_done(f"{thinking}{form.thinking.close}\n\n")


@pytest.mark.parametrize(
    ("template", "form"),
    [
        ("{% set d = '｜DSML｜' %}{{ '<' ~ d ~ 'function_calls>' }}{{ message.tool_calls }}", "deepseek-v3.2"),
        ("{% set d = '｜DSML｜' %}{{ '<' ~ d ~ 'tool_calls>' }}", "deepseek-v4"),
        ('Write "Action:" and a list of actions: {"tool_name": title}', "command-r"),
        ('{"tool_name": ..} <|START_ACTION|> Action:', "command-r7b"),
    ],
)
def test_templates_that_make_their_marks(template: str, form: str) -> None:
    assert form_of(ByteVocabulary(template=template)).name == form


def test_special_tokens_are_marks() -> None:
    vocabulary = ByteVocabulary(["[TOOL_CALLS]", "[INST]", "<tool_call>"], "[TOOL_CALLS] [ARGS]")
    assert form_of(vocabulary).marks == {257: "[TOOL_CALLS]"}
    assert form_of(vocabulary, "hermes").marks == {257: "[TOOL_CALLS]", 259: "<tool_call>"}
    assert form_of(ByteVocabulary(), "hermes").marks == {}


def test_an_unknown_name() -> None:
    with pytest.raises(ModelError, match='no tool format "x", choose one of: auto, hermes'):
        form_of(ByteVocabulary(), "x")
    assert set(WRITE) == set(FORMS)


def test_the_documentation_names_each_form() -> None:
    page = (Path(__file__).parents[4] / "docs" / "http.md").read_text("utf-8")
    table = page[page.index("## Forms of calls") :].split("\n\n## ")[0]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    assert sorted(re.findall(r"`(.+?)`", "".join(rows))) == sorted(FORMS)


@pytest.mark.parametrize("form", sorted(FORMS))
def test_no_mark_begins_another(form: str) -> None:
    marks = [*FORMS[form].blocks, *FORMS[form].around, *FORMS[form].thinking]
    assert not [one for one in marks for other in marks if one is not other and one != other and other.startswith(one)]
