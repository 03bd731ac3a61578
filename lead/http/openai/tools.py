"""Tools in a request, and the grammar of an answer that must call one.

Such an answer is bare JSON, without the marks that models put around calls. See `lead.http.openai.tool_calls`.
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
"""OpenAI has the same limit."""

_NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}
"""OpenAI's documentation and most clients write this for no parameters. In JSON Schema it is any object."""
_SAYS_NO_MORE = frozenset({"type", "properties", "required", "title", "description", "$schema"})
"""Keywords beside `properties` that do not allow more of them."""


def _types(schema: Mapping[str, Any]) -> Sequence[object]:
    """The types that a value may have."""
    given = schema.get("type") or "object"
    return given if isinstance(given, list) else [given]


class FunctionDefinition(Body):
    name: str = Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = Field(
        None, description="A JSON schema of type object. Without it, there are no parameters."
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
        """The tool as chat templates take it, with every field."""
        function = self.function
        parameters = function.parameters or _NO_PARAMETERS
        described = {"name": function.name, "description": function.description or "", "parameters": parameters}
        return {"type": "function", "function": described}


class FunctionName(Body):
    name: str


class NamedTool(Body):
    """Makes the answer a call of this tool."""

    type: Literal["function"]
    function: FunctionName


class CalledFunction(BaseModel):
    name: str
    arguments: str = Field(
        description="JSON. Only its beginning, if the limit on tokens ended the answer within the call."
    )


class ToolCall(BaseModel):
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class ToolFields(Body):
    """What a request says about tools. `tool_choice` is 'none', 'auto', 'required' or one of the tools."""

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
        """Whether the answer must be a call, and nothing else."""
        return self.tool_choice == "required" or isinstance(self.tool_choice, NamedTool)

    def offered(self) -> Sequence[Tool]:
        """The tools that the prompt names. Raises RequestError for tools that contradict each other."""
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
        """The grammar of the answer; empty if the answer is free.

        With the schema `answer`, the answer is JSON of that schema or a call. Raises RequestError for schemas that are
        too complex.
        """
        choice, tools = self.tool_choice, self.offered()
        if isinstance(choice, NamedTool):
            tools, answer = [tool for tool in tools if tool.function.name == choice.function.name], None
        elif choice == "required":
            answer = None
        elif not tools or answer is None:
            return "" if answer is None else of_lark(f"start: {json_rule(answer)}\n")
        # One rule for each schema, because its references start at its own root.
        rules = [f"answer: {json_rule(answer)}"] if answer is not None else []
        for i, tool in enumerate(tools):
            head = json.dumps(f'{{"name":"{tool.function.name}","arguments":')
            rules += [f'call{i}: {head} arguments{i} "}}"']
            rules += [f"arguments{i}: {json_rule(tool.function.arguments())}"]
        alternatives = [rule.split(":")[0] for rule in rules if not rule.startswith("arguments")]
        return of_lark("\n".join([f"start: {' | '.join(alternatives)}", *rules, ""]))
