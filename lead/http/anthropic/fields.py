"""The request of Anthropic's Messages API."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator

from duo.engines import Vocabulary
from duo.errors import RequestError
from lead.api import Question
from lead.chat import conversation as chat
from lead.chat.conversation import ChatSettings, Conversation
from lead.chat.forms.schemas import takes_objects
from lead.chat.prepare import Prepared, prepare
from lead.http import past
from lead.http.anthropic.blocks import Texts, Turn, lines
from lead.http.defaults import SamplingDefaults
from lead.http.errors import ThreadError
from lead.http.openai.fields import SamplingFields, Stop, other_forms
from lead.http.parsing import Body, Cannot, ModelField, Options, short

MAX_TOOLS = 1024
_BILLING = "x-anthropic-billing-header:"
"""How a block of Claude Code's system prompt begins that is for the vendor, and not for the model. It changes with
every request. In the prompt, it would make the cache of the whole conversation useless."""


def _own(kind: object) -> object:
    """Raises ValueError for the vendor's tools."""
    if kind is not None and kind != "custom":
        raise ValueError(f"it is {short(kind)}: only the vendor has this tool, give one with name and input_schema")
    return kind


class ClientTool(Body):
    """A tool of the client. `input_schema` is a JSON schema of type object."""

    type: Annotated[Literal["custom"] | None, BeforeValidator(_own)] = None
    name: str = Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")
    description: str | None = None
    input_schema: dict[str, Any]

    @field_validator("input_schema")
    @classmethod
    def _of_type_object(cls, schema: dict[str, Any]) -> dict[str, Any]:
        if not takes_objects(schema):
            raise ValueError(f"it is of type {short(schema['type'])}: the input of a tool is of type object")
        return schema

    def known(self) -> chat.Tool:
        """The tool as the lead knows it."""
        return chat.Tool(self.name, self.description or "", self.input_schema)


class AnthropicToolChoice(Body):
    """Which tools may be called. `any`: one of them must be. `tool`: the one with this name must be."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingConfig(Options):
    """How to think. `budget_tokens` limits the tokens of thinking. `omitted` leaves their text out of the answer."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: int | None = Field(None, ge=0, lt=1 << 31)
    display: Literal["summarized", "omitted"] | None = None


class OutputFormat(Options):
    """The JSON schema that the answer follows."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Options):
    """The form of the answer, and how much effort it is worth."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class AnthropicCountRequest(ModelField):
    """Body of POST /v1/messages/count_tokens: all that the prompt is made of."""

    messages: Annotated[
        list[Turn],
        Field(min_length=1, fail_fast=True),
        BeforeValidator(past.in_turns, json_schema_input_type=Annotated[list[Turn], Field(min_length=1)]),
    ]
    system: Texts | None = None
    tools: Annotated[list[ClientTool], Field(fail_fast=True)] | None = Field(None, max_length=MAX_TOOLS)
    tool_choice: AnthropicToolChoice | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = Field(None, description="The older name of `output_config.format`.")
    chat_template_kwargs: dict[str, Any] | None = Field(
        None, description="Variables of the model's chat template, such as enable_thinking."
    )
    thread: None = Field(None, description="Not supported: the lead holds no conversations.")

    cannot: ClassVar[Cannot] = {
        "mcp_servers": ((None, []), "the lead calls no servers, give tools of your own"),
        "container": ((None,), "the lead runs no code"),
        "compaction": ((None,), "the lead makes no summaries, ask for one in a message"),
    }
    vendors: ClassVar[Collection[str]] = (
        "betas",
        "billing_policy",
        "cache_control",
        "context_management",
        "diagnostics",
        "fallback_credit_token",
        "fallbacks",
        "inference_geo",
        "metadata",
        "service_tier",
        "speed",
        "user_profile_id",
        "workspace_id",
    )

    @field_validator("thread", mode="before")
    @classmethod
    def _no_thread(cls, thread: object) -> object:
        if thread is not None:
            raise ThreadError("the lead holds no conversations, send all messages")
        return thread

    def conversation(self) -> Conversation:
        """What the model is asked. Raises RequestError."""
        last, messages = self.messages[-1], [message for turn in self.messages for message in turn.openai()]
        if last.calls:
            where = f"messages[{len(self.messages) - 1}]"
            raise RequestError(f"{where}: it calls tools, and no message after it has their results", where)
        system = self._system()
        return Conversation(
            messages=[*([{"role": "system", "content": system}] if system else []), *messages],
            tools=[tool.known() for tool in self.tools or ()],
            schema=self._schema(),
            variables=self.chat_template_kwargs or {},
            thinking=self._thinking(),
            continues=last.role == "assistant",
            **self._choice(),
        )

    @property
    def grammar_of(self) -> str:
        """The field that asks for an answer of some form."""
        if self.tool_choice is not None and self.tool_choice.type in ("any", "tool"):
            return "tools"
        if self.output_format is not None:
            return "output_format"
        return "output_config.format" if self.output_config is not None and self.output_config.format else "tools"

    def _system(self) -> str:
        return lines([block for block in self.system or () if not block.text.startswith(_BILLING)])

    def _choice(self) -> dict[str, Any]:
        """Fields of a `Conversation`."""
        choice = self.tool_choice
        if choice is None:
            return {}
        if choice.type == "tool" and not choice.name:
            raise RequestError("tool_choice.name is missing", "tool_choice.name")
        return {
            "choice": {"auto": "auto", "none": "none"}.get(choice.type, "required"),
            "named": choice.name or "" if choice.type == "tool" else "",
            "parallel": None if (alone := choice.disable_parallel_tool_use) is None else not alone,
        }

    def _schema(self) -> Mapping[str, Any] | None:
        form = self.output_config.format if self.output_config is not None else None
        if form is not None and self.output_format is not None:
            raise RequestError("output_format and output_config.format say the same: give one", "output_format")
        form = form or self.output_format
        return None if form is None else form.schema_

    def _thinking(self) -> chat.Thinking:
        asked = self.thinking
        effort = (self.output_config.effort if self.output_config is not None else None) or ""
        if asked is None:
            return chat.Thinking(effort=effort)
        if asked.type == "enabled" and asked.budget_tokens is None:
            raise RequestError("thinking.budget_tokens is missing", "thinking.budget_tokens")
        budget = asked.budget_tokens if asked.type == "enabled" else None
        return chat.Thinking(asked.type != "disabled", effort, budget)


class AnthropicRequest(AnthropicCountRequest, SamplingFields):
    """Body of POST /v1/messages."""

    max_tokens: int = Field(
        ge=-1, lt=1 << 31, description="-1 means no limit but the context. 0 only reads the prompt into the cache."
    )
    stop: Stop | None = Field(None, alias="stop_sequences")
    stream: bool | None = None

    cannot: ClassVar[Cannot] = {
        **other_forms("use output_config.format"),
        "stop": ((None, []), "it is called stop_sequences here"),
        "n": ((None, 1), "there is one answer to a request"),
    }
    may_be_silent: ClassVar[bool] = True

    def ready(
        self, vocabulary: Vocabulary, settings: ChatSettings, defaults: SamplingDefaults
    ) -> tuple[Prepared, Question]:
        """The conversation and its question. Raises RequestError."""
        prepared = prepare(self.conversation(), vocabulary, settings)
        return prepared, Question(
            sampling=self.sampling(defaults, prepared.grammar),
            streamed=bool(self.stream),
            **prepared.fields(),
            **self.ends(vocabulary, defaults),
        )

    @property
    def shows_thinking(self) -> bool:
        """Whether the answer holds the text of the thinking."""
        return self.thinking is None or self.thinking.display != "omitted"
