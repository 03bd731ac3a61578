"""The messages of a conversation, and the form that its answer must have."""

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
    """Only in a turn of the assistant."""

    type: Literal["refusal"]
    refusal: str


def joined(content: object, info: ValidationInfo) -> object:
    """Joins a list of text parts with line breaks, as other servers do. Leaves anything else for the type to judge."""
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
    """One turn. Only the assistant's may lack content: if it has tool_calls, or a refusal, which is then its text."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | None = None
    refusal: str | None = None
    tool_calls: list[GivenCall] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    function_call: None = Field(None, description="Not supported: use tool_calls.")
    audio: None = Field(None, description="Not supported: the lead reads only text.")

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
        """The message as `Vocabulary.chat` takes it."""
        # "developer" is OpenAI's newer word for system. Chat templates do not know it.
        turn: dict[str, Any] = {"role": "system" if self.role == "developer" else self.role, "content": self._text}
        if self.tool_calls:
            turn["tool_calls"] = [call.model_dump() for call in self.tool_calls]
        if self.role == "tool":
            turn["tool_call_id"] = self.tool_call_id
        if self.role == "tool" and self.name is not None:
            turn["name"] = self.name
        return turn


class JsonSchema(Body):
    """A named schema. The answer follows it, `strict` or not."""

    model_config = ConfigDict(populate_by_name=True, strict=True, extra="ignore")
    name: str | None = None
    strict: bool | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")


class ResponseFormat(Body):
    """The form of the answer. `json_object` takes llama-server's `schema` too."""

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


class ConversationFields(Body):
    """What the chat template makes a prompt of, beside tools."""

    messages: list[Message] = Field(min_length=1)
    chat_template_kwargs: dict[str, Any] | None = Field(
        None, description="Variables of the model's chat template, such as enable_thinking."
    )

    cannot: ClassVar[Cannot] = {
        "continue_final_message": ((None, False), "an answer is a turn of its own, use /v1/completions"),
        "add_generation_prompt": ((None, True), "a prompt ends where the answer begins"),
    }

    def turns(self) -> list[dict[str, Any]]:
        """The messages as `Vocabulary.chat` takes them."""
        return [message.plain() for message in self.messages]

    @property
    def variables(self) -> Mapping[str, Any]:
        """Variables of the chat template."""
        return self.chat_template_kwargs or {}
