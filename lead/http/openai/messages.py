"""Messages of a conversation, and the form that an answer may be asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Field, ValidationInfo, model_validator

from duo.errors import RequestError
from lead.http.parsing import Body, Cannot, short


class TextPart(Body):
    type: Literal["text"]
    text: str


class RefusalPart(Body):
    """In the assistant's turns alone."""

    type: Literal["refusal"]
    refusal: str


def joined(content: object, info: ValidationInfo) -> object:
    """A list of text parts as one text, a line after the other, as other servers have it; anything else as it is, for
    the type to judge."""
    if not isinstance(content, list):
        return content
    texts: list[str] = []
    for part in content:
        match part:
            case {"type": "text", "text": str(text)}:
                texts.append(text)
            case {"type": "refusal", "refusal": str(text)} if info.data.get("role") == "assistant":
                texts.append(text)
            case {"type": str(kind)} if kind != "text":
                raise ValueError(f"a part of type {short(kind)} cannot be read, only text can")
            case _:
                raise ValueError(f"{short(part)} is not a text part")
    return "\n".join(texts)


Text = Annotated[str, BeforeValidator(joined, json_schema_input_type=str | list[TextPart | RefusalPart])]


class GivenFunction(Body):
    name: str
    arguments: str


class GivenCall(Body):
    id: str
    type: Literal["function"] = "function"
    function: GivenFunction


class Message(Body):
    """One turn. Only the assistant's may lack content, where it has tool_calls or a refusal, which then is its text."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | None = None
    refusal: str | None = None
    tool_calls: list[GivenCall] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    function_call: None = Field(None, description="Not supported: use tool_calls.")
    audio: None = Field(None, description="Not supported: only text is.")

    @model_validator(mode="after")
    def _whole(self) -> Message:
        if self.tool_calls and self.role != "assistant":
            raise ValueError("tool_calls are the assistant's alone")
        if self._text is None and not self.tool_calls:
            raise ValueError("content is missing")
        if self.role == "tool" and self.tool_call_id is None:
            raise ValueError("tool_call_id is missing: it says which call this is the answer to")
        return self

    @property
    def _text(self) -> str | None:
        return self.refusal if self.role == "assistant" and self.refusal and not self.content else self.content

    def plain(self) -> dict[str, Any]:
        """As the vocabulary takes it."""
        # OpenAI's newer word for system, which chat templates do not know.
        turn: dict[str, Any] = {"role": "system" if self.role == "developer" else self.role, "content": self._text}
        if self.tool_calls:
            turn["tool_calls"] = [call.model_dump() for call in self.tool_calls]
        if self.role == "tool":
            turn["tool_call_id"] = self.tool_call_id
        if self.role == "tool" and self.name is not None:
            turn["name"] = self.name
        return turn


class JsonSchema(Body):
    """A named schema; `strict` or not, the answer follows it."""

    model_config = ConfigDict(populate_by_name=True, strict=True, extra="ignore")
    name: str | None = None
    strict: bool | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")


class ResponseFormat(Body):
    """What the answer must look like. json_object takes llama-server's `schema` too."""

    model_config = ConfigDict(populate_by_name=True, strict=True, extra="ignore")
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")

    def answer(self) -> Mapping[str, Any] | None:
        """The schema that the answer must follow, if any. Raises RequestError."""
        if self.type == "text":
            return None
        if self.type == "json_object":
            return self.schema_ or {"type": "object"}
        schema = self.json_schema.schema_ if self.json_schema is not None else self.schema_
        if schema is None:
            raise RequestError("response_format.json_schema.schema is missing", "response_format.json_schema.schema")
        return schema


class Conversation(Body):
    """What a prompt is made of by the model's chat template, beside tools."""

    messages: list[Message] = Field(min_length=1)
    chat_template_kwargs: dict[str, Any] | None = Field(
        None, description="Variables of the model's chat template, such as enable_thinking."
    )

    cannot: ClassVar[Cannot] = {
        "continue_final_message": ((None, False), "an answer is a turn of its own, use /v1/completions"),
        "add_generation_prompt": ((None, True), "a prompt ends where the answer begins"),
    }

    def turns(self) -> list[dict[str, Any]]:
        """The messages as the vocabulary takes them."""
        return [message.plain() for message in self.messages]

    @property
    def variables(self) -> Mapping[str, Any]:
        """Of the template."""
        return self.chat_template_kwargs or {}
