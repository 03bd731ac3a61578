"""Prompts that end within the last message, so that the answer continues it.

Templates write a mark after each turn, and some change what a turn says: they strip it or take thinking out of it. So
the last message gets a word at its end, and the prompt is what stands before that word.
"""

from __future__ import annotations

from collections.abc import Callable

from duo.engines.base import Objects
from duo.errors import RequestError

_END = "q8x1f0continues0f1x8q"
"""A word that no template changes. If a message holds it too, the last one counts."""
_OPEN = "<think>"

Render = Callable[[Objects, bool], str]
"""Makes a prompt of messages. True: an answer begins at its end."""


def continued(messages: Objects, render: Render) -> str:
    """The prompt that ends where the last message ends. Raises RequestError."""
    if not messages or messages[-1].get("role") != "assistant":
        raise RequestError("only a last message of the assistant can be continued", "messages")
    *before, last = messages
    if last.get("tool_calls"):
        where = f"messages[{len(before)}]"
        raise RequestError(f"{where} calls tools and cannot be continued: send their results", f"{where}.tool_calls")
    content, thinking = last.get("content") or "", last.get("reasoning_content") or ""
    if not content and not thinking:
        return render(before, True)
    field = "content" if content else "reasoning_content"
    written = render([*before, {**last, field: (content or thinking) + _END}], False)
    at = written.rfind(_END)
    if at >= 0:
        return written[:at]
    # The template loses this text, so it stands where an answer begins.
    begun = render(before, True)
    if content:
        return begun + content
    return begun + thinking if begun.rstrip().endswith(_OPEN) else f"{begun}{_OPEN}\n{thinking}"
