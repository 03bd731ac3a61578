"""From a conversation to what the model is asked: prompt, grammar, and how its answer is taken apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from duo.engines.base import Vocabulary
from duo.errors import RequestError
from lead.chat.conversation import ChatSettings, Conversation, Tool
from lead.chat.forms.form import Form
from lead.chat.forms.table import HERMES
from lead.chat.grammar import NO_PARAMETERS, grammar
from lead.chat.parser import AnswerParser, parser_for


@dataclass(frozen=True, slots=True)
class Prepared:
    """A conversation, ready to be asked.

    grammar: what the answer must follow; empty if it is free. marks: special tokens that the parser needs to see, with
    their names. Their names are then a part of the answer's text.
    """

    prompt: Sequence[int]
    grammar: str
    conversation: Conversation
    marks: Mapping[int, str] = field(default_factory=dict)
    form: Form = HERMES

    def parser(self) -> AnswerParser:
        """A new parser, for one answer."""
        asked = self.conversation
        tools = () if asked.choice == "none" else asked.tools
        return parser_for(self.form, tools, parallel=asked.parallel, must_call=asked.choice == "required")


def prepare(asked: Conversation, vocabulary: Vocabulary, settings: ChatSettings) -> Prepared:
    """Makes a prompt of the conversation. Takes long for a long one. Raises RequestError."""
    check(asked)
    offered = [] if asked.choice == "none" else [described(tool) for tool in asked.tools]
    return Prepared(vocabulary.chat(asked.messages, offered, asked.variables), grammar(asked, HERMES), asked)


def check(asked: Conversation) -> None:
    """Raises RequestError for tools that contradict each other."""
    names = [tool.name for tool in asked.tools]
    if twice := [name for name in names if names.count(name) > 1]:
        raise RequestError(f'tools: two have the name "{twice[0]}"', "tools")
    if not names and asked.choice == "required":
        raise RequestError("tool_choice asks for a call, but there are no tools", "tool_choice")
    if asked.named and asked.named not in names:
        raise RequestError(f'tool_choice: no tool has the name "{asked.named}"', "tool_choice")


def described(tool: Tool) -> dict[str, Any]:
    """The tool as chat templates take it, with every field."""
    described = {"name": tool.name, "description": tool.description, "parameters": tool.parameters or NO_PARAMETERS}
    return {"type": "function", "function": described}
