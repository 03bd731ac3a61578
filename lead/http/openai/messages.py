"""The messages of a conversation, and the form that its answer must have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, ValidationInfo, model_validator

from duo.errors import RequestError
from lead.http import past
from lead.http.parsing import Body, Options, short


class TextPart(Body):
    """The last two types are the Responses API's."""

    type: Literal["text", "input_text", "output_text"]
    text: str


class RefusalPart(Body):
    """Only in a turn of the assistant."""

    type: Literal["refusal"]
    refusal: str


_TEXTS = ("text", "input_text", "output_text", "refusal")


def joined(content: object, info: ValidationInfo) -> object:
    """Joins a list of text parts with line breaks, as other servers do. Leaves anything else for the type to judge."""
    if not isinstance(content, list):
        return content
    texts: list[str] = []
    for i, part in enumerate(content):
        match part:
            case str(text) | {"type": "text" | "input_text" | "output_text", "text": str(text)}:
                texts.append(text)
            case {"type": "refusal", "refusal": str(text)} if info.data.get("role") == "assistant":
                texts.append(text)
            case {"type": str(kind)} if kind not in _TEXTS:
                raise ValueError(f"a part of type {short(kind)} cannot be read, only text can (it is part {i})")
            case _:
                raise ValueError(f"{short(part)} is not a text part")
    return "\n".join(texts)


def _text_or_none(value: object) -> object:
    """For fields that OpenAI's API does not know, and so takes with any value."""
    return value if isinstance(value, str) else None


Text = Annotated[str, BeforeValidator(joined, json_schema_input_type=str | list[TextPart | RefusalPart])]
Thought = Annotated[str | None, BeforeValidator(_text_or_none)]


class GivenFunction(Body):
    name: str = Field(min_length=1)
    arguments: Any = Field(None, description="JSON, as text or as an object. What is neither is taken as text.")


class GivenCall(Body):
    """A call that the assistant made. Without an id, its result is found by name or by order. An empty type is none."""

    id: str | None = None
    type: Annotated[Literal["function"] | None, BeforeValidator(lambda kind: kind or None)] = "function"
    function: GivenFunction

    @model_validator(mode="before")
    @classmethod
    def _of_custom_tool(cls, value: Any) -> Any:
        match value:
            case {"type": "custom", "custom": {"name": name, **custom}}:
                return {"id": value.get("id"), "function": {"name": name, "arguments": {"input": custom.get("input")}}}
        return value

    def plain(self) -> dict[str, Any]:
        return {"id": self.id, "type": "function", "function": self.function.model_dump()}


class Message(Body):
    """One turn. It may be whatever an assistant said, or a client made of that: OpenAI's API takes nearly anything.

    Content may be missing in turns of the assistant and in results. A refusal is text, where there is no other.
    """

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Text | None = None
    refusal: str | None = None
    reasoning_content: Thought = Field(None, description="What the assistant thought before it answered.")
    reasoning: Thought = Field(None, description="From OpenRouter and vLLM: the same as reasoning_content.")
    tool_calls: list[GivenCall] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    function_call: GivenFunction | None = Field(None, description="OpenAI's older form of tool_calls.")
    audio: None = Field(None, description="Not supported: the lead reads only text.")

    @model_validator(mode="before")
    @classmethod
    def _thinking_apart(cls, value: Any) -> Any:
        """Takes thinking out of content, where some servers send it as parts."""
        match value:
            case {"role": "assistant", "content": list(parts)}:
                thoughts = [thought for part in parts if (thought := _thought(part)) is not None]
                if thoughts:
                    others = [part for part in parts if _thought(part) is None]
                    return {"reasoning_content": "\n".join(thoughts), **value, "content": others}
        return value

    @model_validator(mode="after")
    def _whole(self) -> Message:
        if (self.tool_calls or self.function_call) and self.role != "assistant":
            raise ValueError("tool_calls are the assistant's alone")
        if self.content is None and self.role in ("system", "developer", "user"):
            raise ValueError("content is missing")
        return self

    def plain(self) -> dict[str, Any]:
        """The message as `Vocabulary.chat` takes it."""
        if self.role in ("tool", "function"):
            result = {"role": "tool", "content": self.content or "", "tool_call_id": self.tool_call_id}
            return result if self.name is None else {**result, "name": self.name}
        if self.role != "assistant":
            # "developer" is OpenAI's newer word for system. Chat templates do not know it.
            return {"role": "system" if self.role == "developer" else self.role, "content": self.content}
        turn: dict[str, Any] = {"role": "assistant", "content": self.content or self.refusal or ""}
        if thought := self.reasoning_content or self.reasoning:
            turn["reasoning_content"] = thought
        calls = [call.plain() for call in self.tool_calls or ()]
        if self.function_call is not None:
            calls.append({"id": None, "type": "function", "function": self.function_call.model_dump()})
        return {**turn, "tool_calls": calls} if calls else turn


_Given = Annotated[list[Message], Field(min_length=1)]
Messages = Annotated[_Given, BeforeValidator(past.in_chat, json_schema_input_type=_Given)]
"""The turns of a conversation."""


def _thought(part: object) -> str | None:
    """The text of a part that is thinking; None if it is none."""
    match part:
        case {"type": "thinking", "thinking": str(text)} | {"type": "reasoning", "text": str(text)}:
            return text
        case {"type": "thinking", "thinking": list(inner)}:
            return "".join([str(text["text"]) for text in inner if isinstance(text, dict) and "text" in text])
    return None


class JsonSchema(Options):
    """A named schema. The answer follows it, `strict` or not."""

    model_config = ConfigDict(populate_by_name=True, strict=True, extra="ignore")
    name: str | None = None
    strict: bool | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")


class ResponseFormat(Options):
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


class FormFields(Body):
    """The form of the answer."""

    response_format: ResponseFormat | None = None
    json_schema: dict[str, Any] | None = Field(
        None, description="From llama-server: the same as a response_format of type json_schema."
    )

    def schema_asked(self) -> Mapping[str, Any] | None:
        """The schema that the answer must follow, if any. Raises RequestError."""
        given = self.response_format.answer() if self.response_format is not None else None
        if given is not None and self.json_schema:
            raise RequestError("json_schema and response_format say the same: give one of them", "json_schema")
        return given or self.json_schema or given

    @property
    def grammar_of(self) -> str:
        """The field that asks for an answer of some form."""
        if self.response_format is not None and self.response_format.type != "text":
            return "response_format"
        return "json_schema" if self.json_schema else "tools"


class ConversationFields(Body):
    """What the chat template makes a prompt of, beside tools."""

    messages: Messages
    chat_template_kwargs: dict[str, Any] | None = Field(
        None, description="Variables of the model's chat template, such as enable_thinking."
    )
    chat_template_args: dict[str, Any] | None = Field(None, description="Dynamo's name for it.")

    continue_final_message: bool | None = Field(
        None, description="Whether the answer continues the last message, if it is the assistant's. The default is yes."
    )
    add_generation_prompt: bool | None = Field(
        None, description="Whether the answer is a turn of its own. It is the opposite of continue_final_message."
    )

    def turns(self) -> list[dict[str, Any]]:
        """The messages as `Vocabulary.chat` takes them."""
        return [message.plain() for message in self.messages]

    @property
    def continues(self) -> bool:
        """Whether the answer continues the last message. Raises RequestError for fields that contradict each other.

        Without these fields, an answer continues a last message of the assistant, as llama-server's do.
        """
        last, asked, begins = self.messages[-1].role, self.continue_final_message, self.add_generation_prompt
        if asked and begins:
            why = "an answer cannot both continue a message and be a turn of its own"
            raise RequestError(f"continue_final_message and add_generation_prompt are both true: {why}", _CONTINUES)
        if last != "assistant" and asked:
            raise RequestError(f"continue_final_message is true, but the last message is the {last}'s", _CONTINUES)
        if last != "assistant" and begins is False:
            why = "without a message to continue, an answer is a turn of its own"
            raise RequestError(f"add_generation_prompt is false: {why}", "add_generation_prompt")
        return last == "assistant" and asked is not False and not begins

    @property
    def variables(self) -> Mapping[str, Any]:
        """Variables of the chat template."""
        return self.chat_template_kwargs or self.chat_template_args or {}


_CONTINUES = "continue_final_message"
