"""The forms, by name, and how a template and a vocabulary show which one a model has."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from duo.engines.base import Vocabulary
from duo.errors import ModelError
from lead.answers.text import special_in
from lead.chat.forms import bare, channels, pythonic, sections, tagged
from lead.chat.forms.form import USUAL, Form, Thinking
from lead.chat.forms.found import Reader

THINKING: Sequence[Thinking] = (
    USUAL,
    Thinking("[THINK]", "[/THINK]"),
    Thinking("<seed:think>", "</seed:think>"),
    Thinking("<|channel>thought\n", "<channel|>"),
    Thinking("<|START_THINKING|>", "<|END_THINKING|>"),
    Thinking("<|inner_prefix|>", "<|inner_suffix|>"),
    Thinking("◁think▷", "◁/think▷"),
    Thinking("<thinking>", "</thinking>"),
    Thinking("<thought>", "</thought>"),
    Thinking("<reasoning>", "</reasoning>"),
)
"""The marks around thinking that models have."""

_TOOL_CALL, _TOOL_CALL_END = "<tool_call>", "</tool_call>"


def _tags(begin: str = _TOOL_CALL, end: str = _TOOL_CALL_END) -> dict[str, Reader]:
    """Tags around calls, which models forget around functions."""
    return {begin: tagged.within(end), tagged.QWEN.name[0]: tagged.alone(end)}


_MISTRAL = Form(
    "mistral", {sections.TOOL_CALLS: sections.mistral}, names=True, thinking=THINKING[1],
    ends=(sections.ARGS, sections.CALL_ID),
)  # fmt: skip
_DEEPSEEK = Form(
    "deepseek-v3",
    {sections.DEEPSEEK_SECTION: sections.deepseek(True), sections.DEEPSEEK_CALL: sections.deepseek(False)},
    ends=(sections.DEEPSEEK_NAME, sections.DEEPSEEK_END, sections.DEEPSEEK_SECTION_END),
)

HERMES = Form(
    "hermes", {**_tags(), sections.TOOL_CALLS: sections.mistral, "<|python_tag|>": bare.tagged}, names=True,
    ends=(_TOOL_CALL_END,),
)  # fmt: skip
"""Also the form of a template that knows no tools: our own instructions ask for it. Such a model may know others."""

_ALL = (
    HERMES,
    Form("qwen3-coder", _tags(), ends=(_TOOL_CALL_END,)),
    Form("glm", _tags(), ends=(_TOOL_CALL_END, *tagged.GLM.key, *tagged.GLM.value)),
    Form("seed", _tags("<seed:tool_call>", "</seed:tool_call>"), thinking=THINKING[2], ends=("</seed:tool_call>",)),
    Form("minimax", {"<minimax:tool_call>": tagged.within("</minimax:tool_call>")}, ends=("</minimax:tool_call>",)),
    Form("llama3", {"<|python_tag|>": bare.tagged, tagged.QWEN.name[0]: tagged.alone("")}, python=True),
    Form(
        "pythonic",
        {"<|python_start|>": pythonic.listed("<|python_end|>"), "<|python_tag|>": bare.tagged},
        python=True,
        ends=("<|python_end|>",),
    ),
    Form(
        "lfm2", {"<|tool_call_start|>": pythonic.listed("<|tool_call_end|>")}, python=True, ends=("<|tool_call_end|>",)
    ),
    _MISTRAL,
    replace(_MISTRAL, name="mistral-list"),
    _DEEPSEEK,
    replace(_DEEPSEEK, name="deepseek-v3.1"),
    Form(
        "kimi-k2",
        {sections.KIMI_SECTION: sections.kimi(True), sections.KIMI_CALL: sections.kimi(False)},
        ends=(sections.KIMI_ARGUMENTS, sections.KIMI_END, sections.KIMI_SECTION_END),
    ),
    Form(
        "gpt-oss", channels=True, declared=True, thinking=Thinking(channels.THINKS, channels.ANSWERS),
        ends=(channels.CONSTRAIN, channels.CALL, channels.RETURN),
    ),
    Form("gemma3", python=True),
    Form(
        "gemma4", {"<|tool_call>": pythonic.gemma("<tool_call|>")}, thinking=THINKING[3],
        ends=("<tool_call|>", '<|"|>'),
    ),
    Form(
        "functiongemma", {"<start_function_call>": pythonic.gemma("<end_function_call>")},
        ends=("<end_function_call>", "<escape>"),
    ),
    Form("phi4", {"<|tool_call|>": tagged.within("<|/tool_call|>")}, ends=("<|/tool_call|>",)),
    Form("nemotron", {"<TOOLCALL>": tagged.within("</TOOLCALL>")}, ends=("</TOOLCALL>",)),
    Form("apriel", {"<tool_calls>": tagged.within("</tool_calls>")}, ends=("</tool_calls>",)),
    Form("json"),
)  # fmt: skip
FORMS: Mapping[str, Form] = {form.name: form for form in _ALL}

_WRITTEN: Sequence[tuple[str, str]] = (
    ("gpt-oss", r"<\|channel\|>.*<\|message\|>"),
    ("deepseek-v3", r"<｜tool▁calls?▁begin｜>.*```json"),
    ("deepseek-v3.1", r"<｜tool▁calls?▁begin｜>"),
    ("kimi-k2", r"<\|tool_calls_section_begin\|>"),
    ("gemma4", r"<\|tool_call>"),
    ("functiongemma", r"<start_function_call>"),
    ("mistral", r"\[TOOL_CALLS\].*\[ARGS\]|\[ARGS\].*\[TOOL_CALLS\]"),
    ("mistral-list", r"\[TOOL_CALLS\]"),
    ("glm", r"<arg_key>"),
    ("seed", r"<seed:tool_call>"),
    ("minimax", r"<minimax:tool_call>"),
    ("qwen3-coder", r"<function=.*<parameter="),
    ("phi4", r"<\|tool_call\|>"),
    ("nemotron", r"<TOOLCALL>"),
    ("apriel", r"<tool_calls>"),
    ("hermes", r"<tool_call>"),
    ("lfm2", r"<\|tool_call_start\|>"),
    ("pythonic", r"<\|python_start\|>|\[func_name\w*\("),
    ("gemma3", r"tool_code"),
    ("llama3", r"<\|python_tag\|>|\"parameters\": "),
)
"""Forms, and what a template with this form has in its text. The first that fits counts."""
_TOKENS: Sequence[tuple[str, str]] = (
    ("gpt-oss", "<|constrain|>"), ("deepseek-v3.1", sections.DEEPSEEK_SECTION), ("kimi-k2", sections.KIMI_SECTION),
    ("gemma4", "<|tool_call>"), ("mistral", sections.ARGS), ("mistral-list", sections.TOOL_CALLS),
    ("lfm2", "<|tool_call_start|>"), ("llama3", "<|python_tag|>"),
)  # fmt: skip
"""Forms, and the token that shows one where the template takes tools and does not write calls."""


def form_of(vocabulary: Vocabulary, name: str = "auto") -> Form:
    """How the model writes calls and thinking. `name`: one of `FORMS`, or 'auto'.

    Takes a while for a large vocabulary: ask once. Raises ModelError for another name.
    """
    if name != "auto" and name not in FORMS:
        raise ModelError(f'there is no tool format "{name}", choose one of: auto, {", ".join(FORMS)}')
    known = frozenset(vocabulary.meanings)
    form = _seen(vocabulary.chat_template, known) if name == "auto" else FORMS[name]
    if not form.channels:
        form = _thinking(form, vocabulary.chat_template, known)
    marks = special_in(form.written, vocabulary)
    return replace(form, marks={token: mark for token, mark in marks.items() if token not in vocabulary.eos})


def _seen(template: str, known: frozenset[bytes]) -> Form:
    for name, pattern in _WRITTEN:
        if re.search(pattern, template, re.DOTALL):
            return FORMS[name]
    if "tools" in template:
        for name, token in _TOKENS:
            if token.encode() in known:
                return FORMS[name]
    return HERMES


def _thinking(form: Form, template: str, known: frozenset[bytes]) -> Form:
    """The form with the model's marks of thinking."""
    pairs = [form.thinking, *THINKING]
    for pair in pairs:
        if pair.open.strip() in template or pair.close in template:
            return replace(form, thinking=pair, declared=True)
    for pair in pairs:
        if {pair.open.encode(), pair.close.encode()} <= known:
            return replace(form, thinking=pair, declared=True)
    return form
