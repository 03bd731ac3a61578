"""Calls written in every form, for tests of parsers and grammars; and a small vocabulary with special tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lead.chat.conversation import Tool
from lead.chat.forms import FORMS, Form
from lead.chat.forms.literals import is_bare_key, is_keyword
from lead.chat.parser import parser_for
from lead.chat.parts import Call, Text, Thought
from lead.chat.parts import Part as AnyPart

Arguments = Mapping[str, Any]
Written = Sequence[tuple[str, Arguments]]
"""Calls: names and arguments."""

Part = tuple[str, str] | tuple[str, str, Any, bool]
"""Text or thinking; or a call, with its name, its arguments, and whether it is whole."""

STRING: Mapping[str, Any] = {"type": "string"}
TOOLS = (
    Tool(
        "weather",
        parameters={
            "type": "object",
            "properties": {
                "city": STRING,
                "days": {"type": "integer"},
                "exact": {"type": "boolean"},
                "place": {"type": "object", "properties": {"x": {"type": "number"}, "note": STRING}},
                "tags": {"type": "array", "items": STRING},
            },
            "required": ["city"],
        },
    ),
    Tool("time"),
    Tool("write_file", parameters={"type": "object", "properties": {"path": STRING, "text": STRING}}),
)


def dumped(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _hermes(calls: Written) -> str:
    return "\n".join(
        f"<tool_call>\n{dumped({'name': name, 'arguments': given})}\n</tool_call>" for name, given in calls
    )


def _bare(value: object) -> str:
    return value if isinstance(value, str) else dumped(value)


def _qwen(begin: str, end: str) -> Callable[[Written], str]:
    def write(calls: Written) -> str:
        written = []
        for name, given in calls:
            values = "".join(f"<parameter={key}>\n{_bare(value)}\n</parameter>\n" for key, value in given.items())
            written.append(f"{begin}\n<function={name}>\n{values}</function>\n{end}")
        return "\n".join(written)

    return write


def _minimax(calls: Written) -> str:
    written = ""
    for name, given in calls:
        values = "".join(f'<parameter name="{key}">{_bare(value)}</parameter>\n' for key, value in given.items())
        written += f'<invoke name="{name}">\n{values}</invoke>\n'
    return f"<minimax:tool_call>\n{written}</minimax:tool_call>"


def _dsml(word: str) -> Callable[[Written], str]:
    def write(calls: Written) -> str:
        written = ""
        for name, given in calls:
            values = "".join(
                f'<｜DSML｜parameter name="{key}" string="{str(isinstance(value, str)).lower()}">{_bare(value)}'
                "</｜DSML｜parameter>\n"
                for key, value in given.items()
            )
            written += f'<｜DSML｜invoke name="{name}">\n{values}</｜DSML｜invoke>\n'
        return f"<｜DSML｜{word}>\n{written}</｜DSML｜{word}>"

    return write


def _actions(calls: Written, numbered: bool) -> str:
    written = [
        dumped(({"tool_call_id": str(i)} if numbered else {}) | {"tool_name": name, "parameters": given})
        for i, (name, given) in enumerate(calls)
    ]
    return "[\n    " + ",\n    ".join(written) + "\n]"


def _glm(calls: Written) -> str:
    return "\n".join(
        f"<tool_call>{name}\n"
        + "".join(f"<arg_key>{key}</arg_key>\n<arg_value>{_bare(value)}</arg_value>\n" for key, value in given.items())
        + "</tool_call>"
        for name, given in calls
    )


def _python_value(value: object) -> str:
    if isinstance(value, str):
        return dumped(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{dumped(key)}: {_python_value(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_python_value, value))}]"
    return repr(value)


def _python_call(name: str, given: Arguments) -> str:
    written = [f"{key}={_python_value(value)}" for key, value in given.items() if is_keyword(key)]
    others = {key: value for key, value in given.items() if not is_keyword(key)}
    return f"{name}({', '.join([*written, *([f'**{_python_value(others)}'] if others else [])])})"


def _pythonic(calls: Written) -> str:
    return f"[{', '.join(_python_call(name, given) for name, given in calls)}]"


def _gemma_key(key: str) -> str:
    return key if is_bare_key(key) else dumped(key)


def _gemma_value(value: object, quote: str) -> str:
    if isinstance(value, str):
        return f"{quote}{value}{quote}"
    if isinstance(value, dict):
        return "{" + ",".join(f"{_gemma_key(key)}:{_gemma_value(inner, quote)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return f"[{','.join(_gemma_value(inner, quote) for inner in value)}]"
    return dumped(value)


def _gemma(begin: str, end: str, quote: str) -> Callable[[Written], str]:
    return lambda calls: "".join(f"{begin}call:{name}{_gemma_value(dict(given), quote)}{end}" for name, given in calls)


def _json_list(begin: str, end: str) -> Callable[[Written], str]:
    return lambda calls: begin + dumped([{"name": name, "arguments": given} for name, given in calls]) + end


def _deepseek(calls: Written) -> str:
    written = "".join(
        f"<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{dumped(given)}<｜tool▁call▁end｜>" for name, given in calls
    )
    return f"<｜tool▁calls▁begin｜>{written}<｜tool▁calls▁end｜>"


def _deepseek_v3(calls: Written) -> str:
    written = "\n".join(
        f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{dumped(given)}\n```<｜tool▁call▁end｜>"
        for name, given in calls
    )
    return f"<｜tool▁calls▁begin｜>{written}<｜tool▁calls▁end｜>"


def _kimi(calls: Written) -> str:
    written = "".join(
        f"<|tool_call_begin|>functions.{name}:{i}<|tool_call_argument_begin|>{dumped(given)}<|tool_call_end|>"
        for i, (name, given) in enumerate(calls)
    )
    return f"<|tool_calls_section_begin|>{written}<|tool_calls_section_end|>"


def _harmony(calls: Written) -> str:
    return "<|start|>assistant".join(
        f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{dumped(given)}<|call|>"
        for name, given in calls
    )


WRITE: Mapping[str, Callable[[Written], str]] = {
    "hermes": _hermes,
    "qwen3-coder": _qwen("<tool_call>", "</tool_call>"),
    "seed": _qwen("<seed:tool_call>", "</seed:tool_call>"),
    "minimax": _minimax,
    "glm": _glm,
    "llama3": lambda calls: "; ".join(dumped({"name": name, "parameters": given}) for name, given in calls),
    "json": lambda calls: "; ".join(dumped({"name": name, "arguments": given}) for name, given in calls),
    "pythonic": _pythonic,
    "lfm2": lambda calls: f"<|tool_call_start|>{_pythonic(calls)}<|tool_call_end|>",
    "mistral": lambda calls: "".join(f"[TOOL_CALLS]{name}[ARGS]{dumped(given)}" for name, given in calls),
    "mistral-list": _json_list("[TOOL_CALLS]", ""),
    "deepseek-v3": _deepseek_v3,
    "deepseek-v3.1": _deepseek,
    "deepseek-v3.2": _dsml("function_calls"),
    "deepseek-v4": _dsml("tool_calls"),
    "command-r": lambda calls: f"Action: ```json\n{_actions(calls, numbered=False)}```",
    "command-r7b": lambda calls: f"<|START_ACTION|>{_actions(calls, numbered=True)}<|END_ACTION|>",
    "kimi-k2": _kimi,
    "gpt-oss": _harmony,
    "gemma3": lambda calls: "```tool_code\n" + "\n".join(_python_call(*call) for call in calls) + "\n```",
    "gemma4": _gemma("<|tool_call>", "<tool_call|>", '<|"|>'),
    "functiongemma": _gemma("<start_function_call>", "<end_function_call>", "<escape>"),
    "phi4": _json_list("<|tool_call|>", "<|/tool_call|>"),
    "nemotron": _json_list("<TOOLCALL>", "</TOOLCALL>"),
    "apriel": _json_list("<tool_calls>", "</tool_calls>"),
}
"""How a model of each form writes calls."""


KEY_ENDS: Mapping[str, str] = {
    "qwen3-coder": ">", "seed": ">", "minimax": '">', "glm": "</arg_key>", "deepseek-v3.2": '"', "deepseek-v4": '"',
}  # fmt: skip
"""What no key can have in it."""


def thinks(form: Form, thought: str) -> str:
    """Thinking before calls or text."""
    if form.channels:
        return f"<|channel|>analysis<|message|>{thought}<|end|><|start|>assistant"
    return f"{form.thinking.open}{thought}{form.thinking.close}"


def says(form: Form, text: str) -> str:
    """Text before calls."""
    return f"<|channel|>commentary<|message|>{text}<|end|><|start|>assistant" if form.channels else text


@dataclass(frozen=True)
class Outcome:
    """What a parser found, with adjacent parts merged, and why the answer ended."""

    parts: Sequence[Part]
    finish: str

    @property
    def calls(self) -> list[tuple[str, Any]]:
        return [(part[1], part[2]) for part in self.parts if len(part) == 4]

    def joined(self, kind: str) -> str:
        return "".join(part[1] for part in self.parts if part[0] == kind)


def parsed(form: str | Form, text: str, cuts: Sequence[int] = (), reason: str = "stop", **asked: Any) -> Outcome:
    """Reads a text that comes in pieces. `cuts`: where they end."""
    tools = asked.pop("tools", TOOLS)
    parser = parser_for(FORMS[form] if isinstance(form, str) else form, tools, **asked)
    parts: list[AnyPart] = []
    for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        parts += parser.push(text[begin:end])
    parts += parser.flush("length" if reason == "length" else "stop")
    assert parser.held == ""
    return Outcome(merged(parts), parser.finish_reason("length" if reason == "length" else "stop"))


def merged(parts: Sequence[AnyPart]) -> list[Part]:
    found: list[Part] = []
    for part in parts:
        if isinstance(part, Call):
            arguments = json.loads(part.arguments) if part.whole else part.arguments
            found.append(("call", part.name, arguments, part.whole))
            continue
        kind = "text" if isinstance(part, Text) else "thought"
        assert isinstance(part, Text | Thought) and part.text
        if found and found[-1][0] == kind:
            found[-1] = (kind, found[-1][1] + part.text)
        else:
            found.append((kind, part.text))
    return found
