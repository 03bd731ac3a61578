"""Tools in a request of OpenAI's chat, and calls in its answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, TypedDict

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, ValidationInfo, field_validator

from duo.errors import RequestError
from lead.chat import conversation as chat
from lead.chat.forms.schemas import takes_objects
from lead.chat.parts import Call
from lead.http.parsing import Body, short

MAX_TOOLS = 128
"""OpenAI has the same limit."""


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
        if schema and not takes_objects(schema):
            of, name = short(schema["type"]), info.data.get("name")
            raise ValueError(f"those of the tool {short(name)} are of type {of}: parameters must be of type object")
        return schema


def _function(kind: object) -> object:
    if kind == "custom":
        raise ValueError("a custom tool takes free text, which is not supported: use a function")
    return kind


class Tool(Body):
    type: Annotated[Literal["function"], BeforeValidator(_function)] = "function"
    function: FunctionDefinition

    def known(self) -> chat.Tool:
        """The tool as the lead knows it."""
        function = self.function
        return chat.Tool(function.name, function.description or "", function.parameters)


class FunctionName(Body):
    name: str


class NamedTool(Body):
    """Makes the answer a call of this tool."""

    type: Literal["function"]
    function: FunctionName


class AllowedTools(Body):
    """Some of the tools. `mode` says whether one of them must be called."""

    mode: Literal["auto", "required"]
    tools: list[NamedTool] = Field(min_length=1, max_length=MAX_TOOLS)


class AllowedChoice(Body):
    """Makes the answer use these tools alone."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


class CalledFunction(BaseModel):
    name: str
    arguments: str = Field(
        description="JSON. Only its beginning, if the limit on tokens ended the answer within the call."
    )


class ToolsAsked(TypedDict):
    """Fields of `lead.chat.conversation.Conversation`."""

    tools: Sequence[chat.Tool]
    choice: chat.Choice
    named: str
    parallel: bool | None


class ToolCall(BaseModel):
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class ToolFields(Body):
    """What a request says about tools. `tool_choice` is 'none', 'auto', 'required', or names tools."""

    tools: list[Tool] | None = Field(None, max_length=MAX_TOOLS)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | AllowedChoice | None = None
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
            case {"type": "allowed_tools", "allowed_tools": {"mode": "auto" | "required", "tools": list()}}:
                try:
                    return AllowedChoice.model_validate(value)
                except ValidationError:
                    raise ValueError(f"{short(value)} names no tools as OpenAI writes it") from None
            case {"type": "custom"}:
                raise ValueError("a custom tool takes free text, which is not supported: use a function")
        raise ValueError(f"{short(value)} is neither none, auto, required nor tools by name as OpenAI writes it")

    def asked(self) -> ToolsAsked:
        """What it says, as fields of a `Conversation`. Raises RequestError."""
        given, named = self.tool_choice, ""
        tools = [tool.known() for tool in self.tools or ()]
        choice: chat.Choice = "auto"
        if isinstance(given, NamedTool):
            choice, named = "required", given.function.name
        elif isinstance(given, AllowedChoice):
            choice, tools = given.allowed_tools.mode, _among(tools, given.allowed_tools)
        elif given is not None:
            choice = given
        return ToolsAsked(tools=tools, choice=choice, named=named, parallel=self.parallel_tool_calls)


def _among(tools: Sequence[chat.Tool], allowed: AllowedTools) -> list[chat.Tool]:
    """The tools that are allowed. The model hears of no others. Raises RequestError."""
    names = {tool.function.name for tool in allowed.tools}
    if strange := sorted(names - {tool.name for tool in tools}):
        raise RequestError(f"tool_choice: no tool has the name {short(strange[0])}", "tool_choice")
    return [tool for tool in tools if tool.name in names]


def call_shape(call: Call) -> dict[str, object]:
    """The call in OpenAI's form. See `ToolCall`."""
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
