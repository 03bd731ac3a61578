"""The grammar of an answer: a call, or JSON of a schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from duo.sampling.json_schema import json_rule, of_lark
from lead.chat.conversation import Conversation, Tool

NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}
"""OpenAI's documentation and most clients write this for no parameters. In JSON Schema it is any object."""
_SAYS_NO_MORE = frozenset({"type", "properties", "required", "title", "description", "$schema"})
"""Keywords beside `properties` that do not allow more of them."""


def grammar(asked: Conversation) -> str:
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


def arguments_schema(tool: Tool) -> Mapping[str, Any]:
    """The schema that the arguments of a call must follow."""
    given = tool.parameters or NO_PARAMETERS
    if given.get("properties") == {} and not given.get("required") and given.keys() <= _SAYS_NO_MORE:
        return {**NO_PARAMETERS, "additionalProperties": False}
    return {**given, "type": "object"}
