"""Grammars of calls, each of one form: what a model must write that has to call a tool."""

from __future__ import annotations

import json
from collections.abc import Sequence

from duo.errors import RequestError
from lead.chat.conversation import Tool
from lead.chat.forms import channels, sections
from lead.chat.forms.literals import dumped, is_keyword
from lead.chat.forms.rules import MAX_EXTRA, Rules, Writes, arguments, bare, literal, members, told, wholes
from lead.chat.forms.tagged import Tags

_BREAK = '"\\n"?'
_SPACE = '" "?'
_INDENT = "/[ \\n]{1,9}/?"
_COMMA = f'"," {_SPACE}'


def tool_calls(begin: str, end: str) -> Writes:
    """JSON between marks."""

    def write(rules: Rules, tools: Sequence[Tool], parallel: bool) -> str:
        calls = rules.any_of([rules.object_(tool) for tool in tools])
        call = rules.rule(f"{rules.text(begin)} {_BREAK} {calls} {_BREAK} {rules.text(end)}")
        return rules.several(call, _BREAK, parallel)

    return write


def json_list(begin: str, end: str) -> Writes:
    """A list of JSON between marks."""

    def write(rules: Rules, tools: Sequence[Tool], parallel: bool) -> str:
        call = rules.any_of([rules.object_(tool) for tool in tools])
        calls = rules.several(call, _COMMA, parallel)
        return f'{rules.text(begin)} {_SPACE} "[" {calls} "]" {rules.text(end)}'.strip()

    return write


def actions(begin: str, end: str, numbered: bool) -> Writes:
    """A list of Cohere's actions between marks. `numbered`: as Command R7B and later models write them."""

    def write(rules: Rules, tools: Sequence[Tool], parallel: bool) -> str:
        number = f'"\\"tool_call_id\\":" {_SPACE} /"[0-9]{{1,3}}"/ {_COMMA}' if numbered else ""
        call = rules.any_of([rules.object_(tool, ("tool_name", "parameters"), number) for tool in tools])
        several = rules.several(call, f'"," {_INDENT}', parallel)
        return f'{rules.text(begin)} "[" {_INDENT} {several} {_INDENT} "]" {rules.text(end)}'

    return write


def objects(key: str, between: str = ";") -> Writes:
    """JSON without marks, with the arguments under this key."""

    def write(rules: Rules, tools: Sequence[Tool], parallel: bool) -> str:
        return rules.several(wholes(rules, tools, key), f"{json.dumps(between)} {_SPACE}", parallel)

    return write


def functions(begin: str, end: str, tags: Tags, together: bool = False) -> Writes:
    """Functions with bare values, in tags. `together`: the tags are around all of them."""

    def write(rules: Rules, tools: Sequence[Tool], parallel: bool) -> str:
        values = told(tags.value[1], tags.kinds) if tags.kinds else bare(tags.value[1], tags.padded)
        between = f"{_BREAK} {rules.text(tags.value[0])}" if tags.value[0] else ""
        calls = []
        for tool in tools:
            named, others = members(tool)
            body = ""
            for key, schema, required in named:
                if tags.key[1] in key:
                    if required:
                        raise RequestError(f"a key of the tool {tool.name} has {tags.key[1]} in it: rename it", "tools")
                    continue
                head = f"{tags.key[0]}{key}{tags.key[1]}"
                value = rules.rule(f"{rules.text(head)} {between} {values(rules, schema)} {_BREAK}")
                body += f" {value}" if required else f" {value}?"
            if others:
                key = f"{rules.text(tags.key[0])} /[\\w.-]{{1,64}}/ {rules.text(tags.key[1])} {between}"
                body += f" ({key} {values(rules, {})} {_BREAK}){{0,{MAX_EXTRA}}}"
            name = rules.text(f"{tags.name[0]}{tool.name}{tags.name[1]}")
            calls.append(rules.rule(f"{name} {_BREAK}{body} {rules.text(tags.end)}"))
        call = rules.any_of(calls)
        if together:
            call = rules.several(call, _BREAK, parallel)
        inner = _BREAK if tags.name[0] else ""
        ends = "" if tags.end == end else f"{_BREAK} {rules.text(end)}"
        around = rules.rule(f"{rules.text(begin)} {inner} {call} {ends}")
        return around if together else rules.several(around, _BREAK, parallel)

    return write


def python(begin: str, end: str, brackets: tuple[str, str] = ("[", "]"), between: str = ",") -> Writes:
    """Python's form, between marks or without them."""

    def write(rules: Rules, tools: Sequence[Tool], parallel: bool) -> str:
        calls = []
        for tool in tools:
            items, others = [], []
            for key, schema, required in members(tool)[0]:
                value = literal(rules, schema)
                if is_keyword(key):
                    items.append((rules.rule(f"{rules.text(f'{key}=')} {value}"), required))
                else:
                    others.append((rules.rule(f'{rules.text(dumped(key))} ":" {_SPACE} {value}'), required))
            if others:
                mapping = rules.rule(f'"**{{" {rules.listed(others, _COMMA)} "}}"')
                items.append((mapping, any(required for _, required in others)))
            calls.append(rules.rule(f'{rules.text(tool.name + "(")} {rules.listed(items, _COMMA)} ")"'))
        several = rules.several(rules.any_of(calls), f"{json.dumps(between)} {_SPACE}", parallel)
        around = (rules.text(begin + brackets[0]), rules.text(brackets[1] + end))
        return f"{around[0]} {several} {around[1]}".strip()

    return write


def named(rules: Rules, tools: Sequence[Tool], parallel: bool) -> str:
    """Mistral's newer form."""
    calls = [
        rules.rule(f"{rules.text(sections.TOOL_CALLS + tool.name + sections.ARGS)} {arguments(rules, tool)}")
        for tool in tools
    ]
    return rules.several(rules.any_of(calls), "", parallel)


def kimi(rules: Rules, tools: Sequence[Tool], parallel: bool) -> str:
    """Kimi K2's section."""
    calls = [
        rules.rule(
            f"{rules.text(f'{sections.KIMI_CALL}functions.{tool.name}:')} /[0-9]{{1,4}}/ "
            f"{rules.text(sections.KIMI_ARGUMENTS)} {arguments(rules, tool)} {rules.text(sections.KIMI_END)}"
        )
        for tool in tools
    ]
    several = rules.several(rules.any_of(calls), _BREAK, parallel)
    return f"{rules.text(sections.KIMI_SECTION)} {several} {rules.text(sections.KIMI_SECTION_END)}"


def deepseek(fenced: bool) -> Writes:
    """DeepSeek's section. `fenced`: as V3 writes it."""

    def write(rules: Rules, tools: Sequence[Tool], parallel: bool) -> str:
        calls = []
        for tool in tools:
            head = f"{sections.DEEPSEEK_CALL}{tool.name}{sections.DEEPSEEK_NAME}"
            end = sections.DEEPSEEK_END
            if fenced:
                head = f"{sections.DEEPSEEK_CALL}function{sections.DEEPSEEK_NAME}{tool.name}\n```json\n"
                end = f"\n```{end}"
            calls.append(rules.rule(f"{rules.text(head)} {arguments(rules, tool)} {rules.text(end)}"))
        several = rules.several(rules.any_of(calls), _BREAK, parallel)
        return f"{rules.text(sections.DEEPSEEK_SECTION)} {several} {_BREAK} {rules.text(sections.DEEPSEEK_SECTION_END)}"

    return write


def harmony(rules: Rules, tools: Sequence[Tool], parallel: bool) -> str:
    """A message to a function. Its end is the end of the answer, so there is one call."""
    calls = []
    for tool in tools:
        head = f"{channels.CHANNEL}commentary to=functions.{tool.name} {channels.CONSTRAIN}json{channels.MESSAGE}"
        calls.append(rules.rule(f"{rules.text(head)} {arguments(rules, tool)}"))
    return rules.any_of(calls)
