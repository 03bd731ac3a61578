"""From a conversation to what the model is asked: prompt, grammar, and how its answer is taken apart."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from duo.engines.base import Vocabulary
from duo.errors import RequestError
from duo.sampling.json_schema import json_rule, of_lark
from duo.sampling.thinking import ThinkingLimit
from lead.chat.conversation import ChatSettings, Conversation, ReasoningFormat, Tool
from lead.chat.parser import AnswerParser, JsonParser, PlainParser

NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}
"""OpenAI's documentation and most clients write this for no parameters. In JSON Schema it is any object."""
_SAYS_NO_MORE = frozenset({"type", "properties", "required", "title", "description", "$schema"})
"""Keywords beside `properties` that do not allow more of them."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A conversation, ready to be asked.

    grammar: what the answer must follow; empty if it is free. marks: special tokens that the parser needs to see, with
    their names. Their names are then a part of the answer's text. thinking: the limit on thinking. thinking_marks: how
    the model writes where thinking begins and ends.
    """

    prompt: Sequence[int]
    grammar: str
    conversation: Conversation
    marks: Mapping[int, str] = field(default_factory=dict)
    thinking: ThinkingLimit | None = None
    thinking_marks: tuple[str, str] = ("<think>", "</think>")
    reasoning_format: ReasoningFormat = "auto"

    def fields(self) -> dict[str, Any]:
        """What it says as fields of a `Question`. The grammar is a field of its sampling."""
        return {"prompt": self.prompt, "marks": self.marks, "thinking": self.thinking}

    def parser(self) -> AnswerParser:
        """A new parser, for one answer."""
        asked = self.conversation
        if not asked.tools or asked.choice == "none":
            return PlainParser()
        return JsonParser([tool.name for tool in asked.tools], asked.parallel, asked.choice == "required")


def prepare(asked: Conversation, vocabulary: Vocabulary, settings: ChatSettings) -> Prepared:
    """Makes a prompt of the conversation. Takes long for a long one. Raises RequestError."""
    check(asked)
    offered = [] if asked.choice == "none" else [described(tool) for tool in asked.tools]
    return Prepared(vocabulary.chat(asked.messages, offered, asked.variables), _grammar(asked), asked)


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


def arguments_schema(tool: Tool) -> Mapping[str, Any]:
    """The schema that the arguments of a call must follow."""
    given = tool.parameters or NO_PARAMETERS
    if given.get("properties") == {} and not given.get("required") and given.keys() <= _SAYS_NO_MORE:
        return {**NO_PARAMETERS, "additionalProperties": False}
    return {**given, "type": "object"}


def _grammar(asked: Conversation) -> str:
    """The grammar of the answer; empty if the answer is free.

    With a schema, the answer is JSON of that schema or a call. Raises RequestError for schemas that are too complex.
    """
    tools = asked.tools if asked.choice != "none" else ()
    schema = None if asked.choice == "required" else asked.schema
    if asked.named:
        tools = [tool for tool in tools if tool.name == asked.named]
    elif asked.choice != "required" and (not tools or schema is None):
        return "" if schema is None else of_lark(f"start: {json_rule(schema)}\n")
    # One rule for each schema, because its references start at its own root.
    rules = [f"answer: {json_rule(schema)}"] if schema is not None else []
    for i, tool in enumerate(tools):
        head = json.dumps(f'{{"name":"{tool.name}","arguments":')
        rules += [f'call{i}: {head} arguments{i} "}}"']
        rules += [f"arguments{i}: {json_rule(arguments_schema(tool))}"]
    alternatives = [rule.split(":")[0] for rule in rules if not rule.startswith("arguments")]
    return of_lark("\n".join([f"start: {' | '.join(alternatives)}", *rules, ""]))
