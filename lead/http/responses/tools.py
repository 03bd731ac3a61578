"""Tools of a Responses request, and which of them the answer may or must call.

A function is a tool as everywhere. A custom tool takes text: the model sees a function with one field. A namespace
groups tools: the model sees each of them under a longer name. `ToolEntry` leads back from that name to the client's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from duo.errors import RequestError
from lead.chat import conversation as chat
from lead.http.openai.tools import FunctionDefinition, ToolsAsked
from lead.http.parsing import Body, checked, short

TEXT_INPUT: Mapping[str, Any] = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}
"""The parameters of a custom tool, as the model sees it."""
_DEFAULT_NAMESPACE = "functions"
"""OpenAI's name for tools without a namespace."""


class FunctionTool(FunctionDefinition):
    type: Literal["function"]


class CustomFormat(Body):
    """The form of a custom tool's input: any text, or text of a grammar."""

    type: Literal["text", "grammar"]
    syntax: str | None = None
    definition: str | None = None


class CustomTool(FunctionDefinition):
    """A tool that takes text. The model is told of a grammar, and not held to it."""

    type: Literal["custom"]
    format: CustomFormat | None = None
    parameters: None = None


class NamespaceTool(FunctionDefinition):
    """A group of tools."""

    type: Literal["namespace"]
    tools: list[dict[str, Any]]
    parameters: None = None


class HostedTool(Body):
    """A tool that OpenAI's servers carry out. Agents offer it always. The lead has none, so the model is not told."""

    type: Literal["web_search", "web_search_preview", "image_generation", "tool_search"]


Tool = FunctionTool | CustomTool | NamespaceTool | HostedTool


@dataclass(frozen=True, slots=True)
class ToolEntry:
    """A tool as the model sees it, and what the client calls it."""

    tool: chat.Tool
    kind: Literal["function", "custom"]
    name: str
    namespace: str = ""


def prompt_name(name: str, namespace: str | None) -> str:
    """What the model calls a tool of a namespace."""
    if not namespace or namespace == _DEFAULT_NAMESPACE:
        return name
    return f"{namespace}{name}" if namespace.endswith("__") else f"{namespace}__{name}"


def entries(tools: Sequence[Mapping[str, Any]], where: str) -> list[ToolEntry]:
    """The tools that the model is told of. Raises RequestError that names the place."""
    found: list[ToolEntry] = []
    for i, given in enumerate(tools):
        found += _entries(given, f"{where}[{i}]", "")
    return found


def _entries(given: Mapping[str, Any], where: str, namespace: str) -> list[ToolEntry]:
    kind = given.get("type")
    if isinstance(kind, str) and kind.startswith("web_search"):
        kind = "web_search"  # its versions have dates in their names
    match kind:
        case "function":
            function = checked(FunctionTool, given, where)
            return [_entry(function, "function", namespace, function.description or "", function.parameters)]
        case "custom":
            custom = checked(CustomTool, given, where)
            return [_entry(custom, "custom", namespace, _described(custom), TEXT_INPUT)]
        case "namespace" if not namespace:
            group = checked(NamespaceTool, given, where)
            return [
                entry
                for i, inner in enumerate(group.tools)
                for entry in _entries(inner, f"{where}.tools[{i}]", group.name)
            ]
        case "web_search" | "image_generation" | "tool_search":
            return []
    raise RequestError(
        f"{where}.type is {short(kind)}: the lead has no such tool, it takes function, custom and namespace",
        f"{where}.type",
    )


def _entry(
    given: FunctionTool | CustomTool,
    kind: Literal["function", "custom"],
    namespace: str,
    description: str,
    parameters: Mapping[str, Any] | None,
) -> ToolEntry:
    tool = chat.Tool(prompt_name(given.name, namespace), description, parameters)
    return ToolEntry(tool, kind, given.name, "" if namespace == _DEFAULT_NAMESPACE else namespace)


def _described(tool: CustomTool) -> str:
    """What the model reads of a custom tool: its grammar too."""
    text = tool.description or ""
    if tool.format is None or not tool.format.definition:
        return text
    grammar = f"The input follows this grammar ({tool.format.syntax or 'lark'}):\n{tool.format.definition}"
    return f"{text}\n\n{grammar}" if text else grammar


class ChosenTool(Body):
    """Makes the answer a call of this tool."""

    type: Literal["function", "custom"]
    name: str
    namespace: str | None = None


class AllowedTools(Body):
    """The answer may call these tools alone. With mode 'required' it has to call one."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[dict[str, Any]]


Choice = Literal["none", "auto", "required"] | ChosenTool | AllowedTools


def choice_of(given: Any) -> Choice:
    """A `tool_choice`. Raises RequestError."""
    where = "tool_choice"
    match given:
        case None | "auto":
            return "auto"
        case "none":
            return "none"
        case "required":
            return "required"
        case {"type": "function" | "custom"}:
            return checked(ChosenTool, given, where)
        case {"type": "allowed_tools"}:
            return checked(AllowedTools, given, where)
        case {"type": str(kind)}:
            raise RequestError(f"tool_choice.type is {short(kind)}: the lead has no such tool", f"{where}.type")
    raise RequestError(
        f"tool_choice is {short(given)}: it must be none, auto, required, name a tool, or be allowed_tools", where
    )


def required(choice: Choice) -> bool:
    """Whether the answer has to be a call."""
    if isinstance(choice, AllowedTools):
        return choice.mode == "required"
    return isinstance(choice, ChosenTool) or choice == "required"


def asked(choice: Choice, tools: Sequence[ToolEntry], parallel: bool | None) -> ToolsAsked:
    """What is asked about tools, as fields of a `Conversation`. Raises RequestError."""
    named = ""
    told: chat.Choice
    if isinstance(choice, ChosenTool):
        told, named = "required", prompt_name(choice.name, choice.namespace)
    elif isinstance(choice, AllowedTools):
        told, tools = choice.mode, _allowed(choice, tools)
    else:
        told = choice
    return ToolsAsked(tools=[entry.tool for entry in tools], choice=told, named=named, parallel=parallel)


def _allowed(choice: AllowedTools, tools: Sequence[ToolEntry]) -> list[ToolEntry]:
    """Those of the tools that are allowed."""
    found: list[ToolEntry] = []
    for i, given in enumerate(choice.tools):
        where = f"tool_choice.tools[{i}]"
        name = given.get("name")
        some = [entry for entry in tools if entry.name == name and given.get("type") == entry.kind]
        if not some and given.get("type") in ("function", "custom"):
            raise RequestError(f"{where}: no tool has the name {short(name)}", where)
        found += some
    return found
