"""The forms, by name, and how a template and a vocabulary show which one a model has."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from duo.engines.base import Vocabulary
from duo.errors import ModelError
from lead.answers.text import special_in
from lead.chat.forms import bare, channels, gemmas, pythonic, sections, tagged, writes
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

_TAGS = ("<tool_call>", "</tool_call>")
_TOOLS = ("<tools>", "</tools>")
"""Around the descriptions of tools in a prompt. Qwen 2.5 Coder writes them around its calls, too."""
_SEED = ("<seed:tool_call>", "</seed:tool_call>")
_MINIMAX = ("<minimax:tool_call>", "</minimax:tool_call>")
_LFM2 = ("<|tool_call_start|>", "<|tool_call_end|>")
_GEMMA4 = ("<|tool_call>", "<tool_call|>")
_FUNCTION_GEMMA = ("<start_function_call>", "<end_function_call>")
_DSML = ("<｜DSML｜function_calls>", "</｜DSML｜function_calls>")
_DSML4 = ("<｜DSML｜tool_calls>", "</｜DSML｜tool_calls>")
_ACTION = ("<|START_ACTION|>", "<|END_ACTION|>")
_PYTHON_TAG = "<|python_tag|>"
_PYTHON = ("<|python_start|>", "<|python_end|>")


def _tags(begin: str, end: str) -> dict[str, Reader]:
    """Tags around calls, which models forget around functions."""
    return {begin: tagged.within(end), tagged.QWEN.name[0]: tagged.alone(end)}


def _dsml(name: str, begin: str, end: str) -> Form:
    """DeepSeek's later form."""
    blocks = {begin: tagged.within(end), tagged.DSML.name[0]: tagged.alone(end, tagged.DSML)}
    return Form(name, writes.functions(begin, end, tagged.DSML, together=True), blocks, ends=(end,))


def _list(name: str, begin: str, end: str) -> Form:
    """A list of JSON between marks."""
    return Form(name, writes.json_list(begin, end), {begin: tagged.within(end)}, ends=(end,))


HERMES = Form(
    "hermes",
    writes.tool_calls(*_TAGS),
    {
        **_tags(*_TAGS),
        _TOOLS[0]: tagged.within(_TOOLS[1]),
        sections.TOOL_CALLS: sections.mistral,
        _PYTHON_TAG: bare.tagged,
    },
    names=True,
    ends=_TAGS[1:],
)
"""Also the form of a template that knows no tools: our own instructions ask for it. Such a model may know others."""
_MISTRAL = Form(
    "mistral",
    writes.named,
    {sections.TOOL_CALLS: sections.mistral},
    names=True,
    thinking=THINKING[1],
    ends=(sections.ARGS, sections.CALL_ID),
)
_DEEPSEEK = Form(
    "deepseek-v3",
    writes.deepseek(fenced=True),
    {sections.DEEPSEEK_SECTION: sections.deepseek(True), sections.DEEPSEEK_CALL: sections.deepseek(False)},
    ends=(sections.DEEPSEEK_NAME, sections.DEEPSEEK_END, sections.DEEPSEEK_SECTION_END),
)
_KIMI = Form(
    "kimi-k2",
    writes.kimi,
    {sections.KIMI_SECTION: sections.kimi(True), sections.KIMI_CALL: sections.kimi(False)},
    ends=(sections.KIMI_ARGUMENTS, sections.KIMI_END, sections.KIMI_SECTION_END),
)
_GLM = Form(
    "glm",
    writes.functions(*_TAGS, tagged.GLM),
    _tags(*_TAGS),
    ends=(_TAGS[1], *tagged.GLM.key, *tagged.GLM.value),
)
_HARMONY = Form(
    "gpt-oss",
    writes.harmony,
    channels=True,
    declared=True,
    thinking=Thinking(channels.THINKS, channels.ANSWERS),
    ends=(channels.CONSTRAIN, channels.CALL, channels.RETURN),
)
_LLAMA = Form(
    "llama3",
    writes.objects("parameters"),
    {_PYTHON_TAG: bare.tagged, tagged.QWEN.name[0]: tagged.alone("")},
    python=True,
)
_PYTHONIC = Form(
    "pythonic",
    writes.python("", ""),
    {_PYTHON[0]: pythonic.listed(_PYTHON[1]), _PYTHON_TAG: bare.tagged},
    python=True,
    ends=_PYTHON[1:],
)

FORMS: Mapping[str, Form] = {
    form.name: form
    for form in (
        HERMES,
        Form("qwen3-coder", writes.functions(*_TAGS, tagged.QWEN), _tags(*_TAGS), ends=_TAGS[1:]),
        _GLM,
        _LLAMA,
        _PYTHONIC,
        _MISTRAL,
        replace(_MISTRAL, name="mistral-list", writes=writes.json_list(sections.TOOL_CALLS, "")),
        _DEEPSEEK,
        replace(_DEEPSEEK, name="deepseek-v3.1", writes=writes.deepseek(fenced=False)),
        _dsml("deepseek-v3.2", *_DSML),
        _dsml("deepseek-v4", *_DSML4),
        _KIMI,
        _HARMONY,
        Form("gemma3", writes.python("```tool_code\n", "\n```", ("", ""), "\n"), python=True),
        Form(
            "gemma4",
            gemmas.gemma(*_GEMMA4, '<|"|>'),
            {_GEMMA4[0]: pythonic.gemma(_GEMMA4[1])},
            thinking=THINKING[3],
            ends=(_GEMMA4[1], '<|"|>'),
        ),
        Form(
            "functiongemma",
            gemmas.gemma(*_FUNCTION_GEMMA, "<escape>"),
            {_FUNCTION_GEMMA[0]: pythonic.gemma(_FUNCTION_GEMMA[1])},
            ends=(_FUNCTION_GEMMA[1], "<escape>"),
        ),
        Form("lfm2", writes.python(*_LFM2), {_LFM2[0]: pythonic.listed(_LFM2[1])}, python=True, ends=_LFM2[1:]),
        Form("seed", writes.functions(*_SEED, tagged.QWEN), _tags(*_SEED), thinking=THINKING[2], ends=_SEED[1:]),
        Form(
            "minimax",
            writes.functions(*_MINIMAX, tagged.INVOKE, together=True),
            {_MINIMAX[0]: tagged.within(_MINIMAX[1])},
            ends=_MINIMAX[1:],
        ),
        Form("command-r", writes.actions("Action: ```json\n", "```", numbered=False), {"Action:": bare.action}),
        Form(
            "command-r7b",
            writes.actions(*_ACTION, numbered=True),
            {_ACTION[0]: tagged.within(_ACTION[1])},
            thinking=THINKING[4],
            ends=_ACTION[1:],
            around=("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
        ),
        _list("phi4", "<|tool_call|>", "<|/tool_call|>"),
        _list("nemotron", "<TOOLCALL>", "</TOOLCALL>"),
        _list("apriel", "<tool_calls>", "</tool_calls>"),
        Form("json", writes.objects("arguments")),
    )
}

_WRITTEN: Sequence[tuple[str, str]] = (
    ("gpt-oss", r"<\|channel\|>.*<\|message\|>"),
    ("deepseek-v4", r"｜DSML｜.*tool_calls>"),
    ("deepseek-v3.2", r"｜DSML｜"),
    ("command-r7b", r"<\|START_ACTION\|>"),
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
    ("llama3", r"<\|python_tag\|>|<\|start_header_id\|>.*\"parameters\": "),
    ("command-r", r"Action:.*tool_name|tool_name.*Action:"),
)
"""Forms, and what a template with this form has in its text. The first that fits counts."""
_TOKENS: Sequence[tuple[str, str]] = (
    ("gpt-oss", "<|constrain|>"), ("deepseek-v3.2", "｜DSML｜"), ("deepseek-v3.1", sections.DEEPSEEK_SECTION),
    ("kimi-k2", sections.KIMI_SECTION), ("gemma4", "<|tool_call>"), ("mistral", sections.ARGS),
    ("mistral-list", sections.TOOL_CALLS), ("lfm2", "<|tool_call_start|>"), ("llama3", "<|python_tag|>"),
    ("command-r7b", "<|START_ACTION|>"),
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
        if pair.close.encode() in known:
            return replace(form, thinking=pair, declared=True)
    return form
