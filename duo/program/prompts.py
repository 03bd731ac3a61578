"""Prompts in a file, as a person gives them to a program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duo.errors import FileError
from duo.program import jsonl

Message = dict[str, str]


@dataclass(frozen=True)
class Conversation:
    """Messages to begin with, then the user's turns. Each turn is a question of its own."""

    turns: Sequence[str]
    before: Sequence[Message] = ()


def read(path: Path) -> list[Conversation]:
    """Conversations from a JSONL file. A line has `turns`, as in MT-Bench and Spec-Bench, or `messages`.

    Raises FileError, which names the line.
    """
    return jsonl.read(path, _line, "no prompts in it")


def _line(fields: Any, where: str) -> Conversation:
    if isinstance(fields, dict) and "turns" in fields:
        turns = fields["turns"]
        if isinstance(turns, list) and turns and all(isinstance(turn, str) and turn for turn in turns):
            return Conversation(turns)
        raise FileError(f"{where}: `turns` must be a list of texts")
    if isinstance(fields, dict) and "messages" in fields:
        return _messages(fields["messages"], where)
    raise FileError(f"{where}: neither `turns` nor `messages`")


def _messages(messages: Any, where: str) -> Conversation:
    """The messages up to the user's last one: the question is what comes after it."""
    wrong = FileError(f"{where}: `messages` must be a list of objects with `role` and `content`, one from the user")
    if not isinstance(messages, list):
        raise wrong
    for message in messages:
        if not isinstance(message, dict) or not all(isinstance(message.get(k), str) for k in ("role", "content")):
            raise wrong
    plain = [{"role": str(m["role"]), "content": str(m["content"])} for m in messages]
    last = max((i for i, m in enumerate(plain) if m["role"] == "user"), default=None)
    if last is None:
        raise wrong
    return Conversation([plain[last]["content"]], plain[:last])
