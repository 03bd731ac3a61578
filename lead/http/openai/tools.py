"""Tools in a request of OpenAI's chat, and calls in its answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, TypedDict

from pydantic import BaseModel, Field, ValidationInfo, field_validator

from lead.chat import conversation as chat
from lead.chat.parts import Call
from lead.http.parsing import Body, short

MAX_TOOLS = 128
"""OpenAI has the same limit."""


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


class Tool(Body):
    type: Literal["function"] = "function"
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
    parallel: bool


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

    def asked(self) -> ToolsAsked:
        """What it says, as fields of a `Conversation`."""
        choice, named = self.tool_choice, ""
        if isinstance(choice, NamedTool):
            choice, named = "required", choice.function.name
        return ToolsAsked(
            tools=[tool.known() for tool in self.tools or ()], choice=choice or "auto", named=named,
            parallel=self.parallel_tool_calls is not False,
        )  # fmt: skip


def call_shape(call: Call) -> dict[str, object]:
    """The call in OpenAI's form. See `ToolCall`."""
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
