"""What a chat template accepts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Arguments = Literal["object", "text"]
Empty = Literal["empty", "null", "absent"]
Beside = Literal["kept", "split", "parted", "lost"]
Ids = Literal["any", "nine", "named"]

FILLER = "..."
"""What a turn says that has nothing to say, where templates want some text."""


@dataclass(frozen=True, slots=True)
class TemplateTraits:
    """What a chat template accepts, and what it needs. `duo.engines.chat.probe` finds it out.

    The defaults are those of a template that writes any turn as text and knows no tools.
    """

    parts: frozenset[str] = frozenset()
    """Roles whose content must be a list of parts. Content of all other roles is text."""

    system: Literal["anywhere", "first", "none"] = "anywhere"
    """Where system turns may stand. 'first': one of them, at the beginning."""

    users_in_a_row: bool = True
    """Whether a turn of the user may follow another one."""

    assistants_in_a_row: bool = True
    """Whether a turn of the assistant may follow another one."""

    assistant_first: bool = True
    """Whether the assistant may have the first turn after the system's."""

    needs_user: bool = False
    """Whether a conversation must hold a turn of the user."""

    empty_user: bool = True
    """Whether a turn of the user may be empty."""

    empty_assistant: bool = True
    """Whether a turn of the assistant may be empty."""

    tools: bool = False
    """Whether tools, calls and results have a form of their own. Otherwise they become text in the form of Hermes."""

    calls_without_tools: bool = False
    """Whether calls and results keep that form where the request has no tools."""

    arguments: Arguments = "object"
    """What the arguments of a call must be."""

    content_beside_calls: Empty = "empty"
    """What the content is where the assistant only calls."""

    text_beside_calls: Beside = "kept"
    """What becomes of text and calls in one turn. 'split': they need two turns. 'parted': these need an empty turn of
    the user between them. 'lost': there is no way for both."""

    results_beside_calls: bool = False
    """Whether results stand in the turn of their calls, as `tool_responses`. So do Gemma's."""

    parallel_calls: bool = True
    """Whether a turn may hold several calls."""

    user_after_tool: bool = True
    """Whether the user may speak right after a result. Otherwise a turn of the assistant must be between."""

    ids: Ids = "any"
    """What ids of calls must be. 'nine': nine letters and digits, as Mistral's. 'named': they hold the name, as
    Kimi's."""

    thinking: str = ""
    """The field that the template reads the assistant's thinking from; empty if it reads none."""

    thinking_beside_text: bool = True
    """Whether thinking, text and calls may stand in one turn."""
