"""Tools in a conversation, for chat templates that know of them and for those that do not.

Some templates write the same prompt with tools as without, so the tools would be lost silently. For these, tools and
calls become plain text in the form of Nous Research's Hermes models, which many models know and which is simple to
parse. Signatures are JSON in a system message, and calls are JSON within <tool_call></tool_call>.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from duo.engines.base import Objects

Copies = list[dict[str, Any]]
"""Messages or tools as templates get them: copies, which they may change."""

Template = Callable[[Copies, Copies | None], str]
"""A chat template: makes a prompt of messages and tools. Tools are None if there are none."""

_INSTRUCTIONS = (
    "You may call functions to answer. Their signatures are within <tools></tools>:\n<tools>\n{tools}\n</tools>\n"
    "To call one, answer with its name and arguments as JSON within <tool_call></tool_call>:\n"
    '<tool_call>\n{{"name": "...", "arguments": {{...}}}}\n</tool_call>'
)
_PROBE: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "probe",
        "description": "A probe.",
        "parameters": {"type": "object", "properties": {"it": {"type": "string", "description": "Anything."}}},
    },
}


def concern(messages: Objects, tools: Objects) -> bool:
    """Whether there are tools or tool calls."""
    return bool(tools) or any(message.get("tool_calls") for message in messages)


def knows_tools(template: Template) -> bool:
    """Whether the template writes tools into a prompt. Also true if it refuses the question."""
    question = {"role": "user", "content": "Hello."}
    try:
        return template([dict(question)], [_PROBE]) != template([dict(question)], None)
    except Exception:  # a template may raise anything; it will raise it again for the request
        return True


def structured(messages: Objects) -> Copies:
    """Messages as templates expect them. Arguments of calls are objects, where OpenAI's API has text; content is text
    even beside calls."""
    result = [dict(message) for message in messages]
    for message in result:
        if message.get("tool_calls"):
            message["content"] = message.get("content") or ""
            message["tool_calls"] = [{**call, "function": _function(call)} for call in message["tool_calls"]]
    return result


def plain(messages: Objects, tools: Objects) -> Copies:
    """The same conversation as plain text messages of system, user and assistant."""
    result: Copies = []
    for message in messages:
        role, content = message["role"], message.get("content")
        if calls := message.get("tool_calls"):
            written = [f"<tool_call>\n{json.dumps(_called(call), ensure_ascii=False)}\n</tool_call>" for call in calls]
            result.append({"role": role, "content": "\n".join([*([content] if content else []), *written])})
        elif role == "tool":
            answer = f"<tool_response>\n{content}\n</tool_response>"
            if result and result[-1].get("answers"):
                result[-1]["content"] += "\n" + answer
            else:
                result.append({"role": "user", "content": answer, "answers": True})
        else:
            result.append(dict(message))
    for message in result:
        message.pop("answers", None)
    if tools:
        signatures = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
        instructions = _INSTRUCTIONS.format(tools=signatures)
        if result and result[0]["role"] == "system":
            result[0]["content"] = f"{result[0]['content']}\n\n{instructions}"
        else:
            result.insert(0, {"role": "system", "content": instructions})
    return result


def _function(call: Mapping[str, Any]) -> dict[str, Any]:
    function = dict(call["function"])
    if isinstance(function.get("arguments"), str):
        with suppress(ValueError):  # a model wrote it, so it may not be JSON
            function["arguments"] = json.loads(function["arguments"])
    return function


def _called(call: Mapping[str, Any]) -> dict[str, Any]:
    function = _function(call)
    return {"name": function["name"], "arguments": function.get("arguments", {})}
