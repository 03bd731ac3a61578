"""What a request asks of the model, whichever API it came through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from duo.engines.base import Objects, Variables

Choice = Literal["none", "auto", "required"]
UNLIMITED = 1 << 31
"""A budget for thinking that is none, where the lead would set one otherwise."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call. `parameters`: a JSON schema of type object; None if it takes none."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Thinking:
    """How the model is to think before it answers.

    enabled: None leaves it to the template. effort: a word for the template, such as 'low'; empty leaves it to the
    template. budget: most tokens of thinking; None leaves it to the lead, `UNLIMITED` means no limit.
    """

    enabled: bool | None = None
    effort: str = ""
    budget: int | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages, tools, and the form of the answer.

    messages: in OpenAI's shape. Each has `role` and `content`, which is text. An assistant's may have `tool_calls` and
        `reasoning_content`, a tool's has `tool_call_id`.
    named: the tool that must be called; empty if none is named. `choice` is then 'required'.
    parallel: whether one answer may hold several calls. None: nobody says. Then a required call is the only one,
        because small models would go on calling.
    schema: the JSON schema that the answer must follow.
    continues: the answer continues the last message, which is the assistant's.
    """

    messages: Objects
    tools: Sequence[Tool] = ()
    choice: Choice = "auto"
    named: str = ""
    parallel: bool | None = None
    schema: Mapping[str, Any] | None = None
    variables: Variables = field(default_factory=dict)
    thinking: Thinking = field(default_factory=Thinking)
    continues: bool = False


ToolFormat = str
"""'auto', or the name of a form of `lead.chat.forms`."""
ReasoningFormat = Literal["auto", "none", "deepseek", "deepseek-legacy"]
"""llama-server's: 'none' leaves thinking in the content, 'deepseek' takes it out, 'deepseek-legacy' does both."""


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """What the person who starts the lead decides about conversations.

    reasoning_budget: most tokens of thinking where a request says nothing; None means no limit, 0 switches it off.
    """

    tool_format: ToolFormat = "auto"
    reasoning_format: ReasoningFormat = "auto"
    reasoning_budget: int | None = None
