"""Calls of tools: asked for in a request, made certain by a grammar, found in the text of an answer.

Models write calls in a few ways, which `_MARKED` lists; what they have in common is JSON with a name and arguments.
Where an answer must be a call, it is written without any marks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field, ValidationInfo, field_validator

from duo.errors import RequestError
from duo.sampling.json_schema import json_rule, of_lark
from lead.http.parsing import Body, short

MAX_TOOLS = 128
"""OpenAI's limit too."""


_NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}
"""As OpenAI's documentation and most clients write it, though to JSON Schema it is any object."""
_SAYS_NO_MORE = frozenset({"type", "properties", "required", "title", "description", "$schema"})
"""What may stand beside properties without there being more of them."""


def _types(schema: Mapping[str, Any]) -> Sequence[object]:
    """Of which a value may be."""
    given = schema.get("type") or "object"
    return given if isinstance(given, list) else [given]


class FunctionDefinition(Body):
    name: str = Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = Field(
        None, description="A JSON schema of type object; none: there are no parameters."
    )
    strict: bool | None = None

    @field_validator("parameters")
    @classmethod
    def _of_type_object(cls, schema: dict[str, Any] | None, info: ValidationInfo) -> dict[str, Any] | None:
        if schema and "object" not in _types(schema):
            of, name = short(schema["type"]), info.data.get("name")
            raise ValueError(f"those of the tool {short(name)} are of type {of}: parameters must be of type object")
        return schema

    def arguments(self) -> Mapping[str, Any]:
        """The schema that the arguments of a call must follow."""
        given = self.parameters or _NO_PARAMETERS
        if given.get("properties") == {} and not given.get("required") and given.keys() <= _SAYS_NO_MORE:
            return {**_NO_PARAMETERS, "additionalProperties": False}
        return {**given, "type": "object"}


class Tool(Body):
    type: Literal["function"] = "function"
    function: FunctionDefinition

    def plain(self) -> dict[str, Any]:
        """For chat templates, which miss what is not there."""
        function = self.function
        parameters = function.parameters or _NO_PARAMETERS
        described = {"name": function.name, "description": function.description or "", "parameters": parameters}
        return {"type": "function", "function": described}


class FunctionName(Body):
    name: str


class NamedTool(Body):
    """Lets the answer be a call of this tool."""

    type: Literal["function"]
    function: FunctionName


class CalledFunction(BaseModel):
    name: str
    arguments: str = Field(description="JSON; only its beginning where the answer ended within the call, for length.")


class ToolCall(BaseModel):
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class ToolFields(Body):
    """What a request says of tools. `tool_choice`: 'none', 'auto', 'required' or one of the tools."""

    tools: list[Tool] | None = Field(None, max_length=MAX_TOOLS)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None

    _CHOICES: ClassVar[Sequence[str]] = ("none", "auto", "required")

    @field_validator("tool_choice", mode="before")
    @classmethod
    def _one_of(cls, value: object) -> object:
        if isinstance(value, str) and value not in cls._CHOICES:
            raise ValueError(f"it is {short(value)} and must be none, auto, required or name a tool")
        if value is None or isinstance(value, str):
            return value
        match value:
            case {"type": "function", "function": {"name": str(name)}}:
                return NamedTool(type="function", function=FunctionName(name=name))
        raise ValueError(f"{short(value)} is neither none, auto, required nor a tool's name as OpenAI writes it")

    @property
    def must_call(self) -> bool:
        """Whether the answer is nothing but a call."""
        return self.tool_choice == "required" or isinstance(self.tool_choice, NamedTool)

    def offered(self) -> Sequence[Tool]:
        """The tools that the model is told of. Raises RequestError for tools that contradict each other."""
        tools, choice = self.tools or [], self.tool_choice
        names = [tool.function.name for tool in tools]
        if twice := [name for name in names if names.count(name) > 1]:
            raise RequestError(f"tools: two have the name {short(twice[0])}", "tools")
        if not tools and self.must_call:
            raise RequestError("tool_choice asks for a call, but there are no tools", "tool_choice")
        if isinstance(choice, NamedTool) and choice.function.name not in names:
            raise RequestError(f"tool_choice: no tool has the name {short(choice.function.name)}", "tool_choice")
        return [] if choice == "none" else tools

    def tool_grammar(self, answer: Mapping[str, Any] | None) -> str:
        """The grammar of an answer that must be a call, or, if there is the schema `answer`, be JSON of it or a call;
        empty: the answer is free. Raises RequestError for schemas that are too complex."""
        choice, tools = self.tool_choice, self.offered()
        if isinstance(choice, NamedTool):
            tools, answer = [tool for tool in tools if tool.function.name == choice.function.name], None
        elif choice == "required":
            answer = None
        elif not tools or answer is None:
            return "" if answer is None else of_lark(f"start: {json_rule(answer)}\n")
        # Each schema stands alone, for its references count from its own root.
        rules = [f"answer: {json_rule(answer)}"] if answer is not None else []
        for i, tool in enumerate(tools):
            head = json.dumps(f'{{"name":"{tool.function.name}","arguments":')
            rules += [f'call{i}: {head} arguments{i} "}}"']
            rules += [f"arguments{i}: {json_rule(tool.function.arguments())}"]
        alternatives = [rule.split(":")[0] for rule in rules if not rule.startswith("arguments")]
        return of_lark("\n".join([f"start: {' | '.join(alternatives)}", *rules, ""]))
