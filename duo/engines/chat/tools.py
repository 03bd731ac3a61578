"""Tools as plain text, for chat templates that do not know of them.

Some templates write the same prompt with tools as without, so the tools would be lost silently. For these, tools and
calls become plain text in the form of Nous Research's Hermes models, which many models know and which is simple to
parse. Signatures are JSON in a system message, and calls are JSON within <tool_call></tool_call>.
"""

from __future__ import annotations

import json
from itertools import groupby

from duo.engines.base import Objects
from duo.engines.chat.calls import Copies, as_object

_INSTRUCTIONS = (
    "You may call functions to answer. Their signatures are within <tools></tools>:\n<tools>\n{tools}\n</tools>\n"
    "To call one, answer with its name and arguments as JSON within <tool_call></tool_call>:\n"
    '<tool_call>\n{{"name": "...", "arguments": {{...}}}}\n</tool_call>'
)


def concern(turns: Objects, tools: Objects) -> bool:
    """Whether there are tools, calls or results."""
    return bool(tools) or any(turn["role"] == "tool" or turn.get("tool_calls") for turn in turns)


def plain(turns: Objects, tools: Objects) -> Copies:
    """The same conversation as plain text turns of system, user and assistant. `turns`: from `calls.paired`."""
    result: Copies = []
    for are_results, group in groupby(turns, lambda turn: turn["role"] == "tool"):
        if are_results:
            answers = [f"<tool_response>\n{turn['content']}\n</tool_response>" for turn in group]
            result.append({"role": "user", "content": "\n".join(answers)})
            continue
        for turn in group:
            content = turn["content"]
            written = [_written(call["function"]) for call in turn.get("tool_calls") or ()]
            kept = {key: value for key, value in turn.items() if key != "tool_calls"}
            result.append({**kept, "content": "\n".join([*([content] if content or not written else []), *written])})
    if tools:
        signatures = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
        instructions = _INSTRUCTIONS.format(tools=signatures)
        if result and result[0]["role"] == "system":
            result[0]["content"] = f"{result[0]['content']}\n\n{instructions}"
        else:
            result.insert(0, {"role": "system", "content": instructions})
    return result


def _written(function: dict[str, object]) -> str:
    called = {"name": function["name"], "arguments": as_object(function["arguments"])}
    return f"<tool_call>\n{json.dumps(called, ensure_ascii=False)}\n</tool_call>"
