"""The fields of a Responses request, and what the model is asked with them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from duo.engines.base import Vocabulary
from duo.errors import RequestError
from lead.api import Question
from lead.chat.conversation import ChatSettings, Conversation
from lead.chat.prepare import Prepared, prepare
from lead.http.defaults import SamplingDefaults
from lead.http.openai.fields import MAX_TOP_LOGPROBS, SamplingFields, other_forms
from lead.http.openai.thinking import ReasoningOptions, ThinkingFields
from lead.http.openai.tools import MAX_TOOLS
from lead.http.parsing import Cannot, ModelField, Options
from lead.http.responses.items import Item, MoreTools, items_of, messages_of, unfinished
from lead.http.responses.tools import Choice, Tool, ToolEntry, asked, choice_of, entries, required

Includable = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "code_interpreter_call.outputs",
]
"""The first two say something here. The others are of tools that the lead does not have."""

_Tools = Annotated[list[dict[str, Any]], BeforeValidator(lambda value: value, json_schema_input_type=list[Tool])]
_Choice = Annotated[Any, BeforeValidator(lambda value: value, json_schema_input_type=Choice | None)]


class TextFormat(Options):
    """The form of the answer's text."""

    model_config = ConfigDict(populate_by_name=True, strict=True, extra="ignore")
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None

    def answer(self) -> Mapping[str, Any] | None:
        """The schema that the answer must follow, if any. Raises RequestError."""
        if self.type == "text":
            return None
        if self.type == "json_object":
            return {"type": "object"}
        if self.schema_ is None:
            raise RequestError("text.format.schema is missing", "text.format.schema")
        return self.schema_


class TextSettings(Options):
    """`verbosity` is taken and does nothing: chat templates know no such thing."""

    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ReasoningSettings(ReasoningOptions):
    """How to think. `summary` is taken: the answer has the thinking itself, which is more."""

    summary: Literal["auto", "concise", "detailed", "none"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


_Items = Annotated[Any, BeforeValidator(items_of, json_schema_input_type=str | list[Item])]


class AskedFields(ThinkingFields, ModelField):
    """What a prompt is made of."""

    input: _Items = Field(None, description="A text, or items. May be absent after a previous response.")
    instructions: str | None = Field(None, description="Stands before the conversation, in this response alone.")
    previous_response_id: str | None = Field(None, description="A response that this one goes on from.")
    tools: _Tools | None = None
    tool_choice: _Choice = None
    parallel_tool_calls: bool | None = None
    text: TextSettings | None = None
    reasoning: ReasoningSettings | None = None
    chat_template_kwargs: dict[str, Any] | None = Field(
        None, description="Variables of the model's chat template, such as enable_thinking."
    )

    cannot: ClassVar[Cannot] = {
        "conversation": ((None,), "the lead keeps no conversations, use previous_response_id"),
        "prompt": ((None,), "the lead keeps no prompt templates, use instructions and input"),
        "messages": ((None,), "it is called input here"),
        **other_forms("it is called text.format here, and takes a json_schema"),
    }

    @property
    def items(self) -> Sequence[Item]:
        """The items of this request."""
        return self.input or ()

    def entries(self, items: Sequence[Item]) -> list[ToolEntry]:
        """The tools, with those among the items, which a history may repeat. Raises RequestError."""
        found = entries(self.tools or (), "tools")
        known = {entry.tool.name for entry in found}
        for item in items:
            if isinstance(item, MoreTools):
                new = [entry for entry in item.entries() if entry.tool.name not in known]
                known.update(entry.tool.name for entry in new)
                found += new
        if len(found) > MAX_TOOLS:
            raise RequestError(f"tools: {len(found)} are too many, at most {MAX_TOOLS} are taken", "tools")
        return found

    def conversation(self, items: Sequence[Item], tools: Sequence[ToolEntry]) -> Conversation:
        """What the model is asked. `items`: all of them, from the first response on. Raises RequestError."""
        turns = messages_of(items)
        if self.instructions:
            turns = [{"role": "system", "content": self.instructions}, *turns]
        if not turns:
            missing = "is missing" if self.input is None else "is empty: there is nothing to answer"
            raise RequestError(f"input {missing}", "input")
        return Conversation(
            turns,
            **asked(choice_of(self.tool_choice), tools, self.parallel_tool_calls),
            schema=self.text.format.answer() if self.text is not None and self.text.format is not None else None,
            variables=self.chat_template_kwargs or {},
            thinking=self.thinks(),
            continues=unfinished(items) and "tool_calls" not in turns[-1],
        )

    def prepared(
        self, items: Sequence[Item], vocabulary: Vocabulary, settings: ChatSettings
    ) -> tuple[Prepared, list[ToolEntry]]:
        """The conversation, and the tools. Takes long for a long one. Raises RequestError."""
        tools = self.entries(items)
        if self.reasoning_format is not None:
            settings = replace(settings, reasoning_format=self.reasoning_format)
        return prepare(self.conversation(items, tools), vocabulary, settings), tools

    @property
    def grammar_of(self) -> str:
        """The field that asks for an answer of some form."""
        form = self.text.format if self.text is not None else None
        free = form is None or form.type == "text"
        return "tools" if free or required(choice_of(self.tool_choice)) else "text.format"


class ResponsesRequest(AskedFields, SamplingFields):
    """Body of POST /v1/responses."""

    max_output_tokens: int | None = Field(None, ge=-1, lt=1 << 31, description="-1 means no limit but the context.")
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    include: list[Includable] | None = None
    stream: bool | None = None
    store: bool | None = Field(None, description="Whether the lead remembers the response. It does by default.")
    metadata: dict[str, str] | None = Field(None, max_length=16)
    truncation: Literal["auto", "disabled"] | None = Field(
        None, description="Taken, but a conversation that is too long is refused: the lead drops nothing."
    )
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = Field(None, description="Ignored: the lead finds common beginnings by itself.")
    service_tier: str | None = None
    max_tool_calls: int | None = Field(None, description="Ignored: it counts OpenAI's own tools.")

    vendors: ClassVar[Collection[str]] = (
        "client_metadata", "context_management", "prompt_cache_options", "prompt_cache_retention", "stream_options",
        "access_programs", "image",
    )  # fmt: skip
    limits: ClassVar[Sequence[str]] = ("n_predict", "max_output_tokens", "max_tokens")
    cannot: ClassVar[Cannot] = {
        "background": ((None, False), "the lead answers while the client waits"),
        "n": ((None, 1), "a response has one answer, use /v1/chat/completions"),
        "n_probs": ((None, 0), "it is called top_logprobs here"),
        "moderation": ((None,), "the lead moderates nothing"),
    }

    @property
    def wants_logprobs(self) -> bool:
        return self.top_logprobs is not None or "message.output_text.logprobs" in (self.include or ())

    @property
    def wants_sealed_thinking(self) -> bool:
        return "reasoning.encrypted_content" in (self.include or ())

    def ready(
        self, items: Sequence[Item], vocabulary: Vocabulary, settings: ChatSettings, defaults: SamplingDefaults
    ) -> tuple[Prepared, Question, list[ToolEntry]]:
        """The conversation, its question, and the tools. Takes long for a long one. Raises RequestError."""
        prepared, tools = self.prepared(items, vocabulary, settings)
        question = Question(
            sampling=self.sampling(defaults, prepared.grammar),
            top_logprobs=(self.top_logprobs or 0) if self.wants_logprobs else None,
            streamed=bool(self.stream),
            **prepared.fields(),
            **self.ends(vocabulary, defaults),
        )
        return prepared, question, tools


class CountRequest(AskedFields):
    """Body of POST /v1/responses/input_tokens: a request without what says how to answer."""
