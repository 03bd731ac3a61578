"""Questions: those of any model, those that the shipped models know, or those of a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from duo.errors import FileError
from duo.program import jsonl
from lead.match.general import GENERAL

Message = dict[str, str]
T = TypeVar("T")


@dataclass(frozen=True)
class Conversation:
    """Messages to begin with, then the user's turns. Each turn is a question of its own."""

    turns: Sequence[str]
    before: Sequence[Message] = ()


@dataclass(frozen=True)
class Question:
    """A conversation up to the answer. prompt: its tokens."""

    messages: Sequence[Message]
    prompt: Sequence[int]


def general() -> list[Conversation]:
    """Everyday requests, for any model."""
    return [Conversation([text]) for text in GENERAL]


def shipped(count: int = 20) -> list[Conversation]:
    """Questions from the domain of the shipped pair: those of a random sample with the longest answers.

    Measured answers have a fixed number of tokens, and should not go on for long after their real end.
    """
    from duo.models import corpus

    questions = sorted(corpus.questions(300, seed=1), key=lambda question: -len(question.answer))
    return [Conversation([question.text]) for question in questions[:count]]


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


def spread(items: Sequence[T], count: int) -> list[T]:
    """`count` of the items, spread evenly over all: files of prompts are often sorted by subject."""
    if count >= len(items):
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]


def questions(
    conversations: Sequence[Conversation],
    count: int,
    longest: int,
    tokens: Callable[[Sequence[Message]], Sequence[int]],
    answer: Callable[[Sequence[Message]], str],
) -> tuple[list[Question], int]:
    """Makes `count` questions. Also returns how many were left out, being longer than `longest` tokens.

    A later turn of a conversation has the target's answers to the earlier turns as its context. tokens: the prompt of
    a conversation. answer: the target's answer to it.
    """
    chosen: list[Question] = []
    too_long = 0
    turns = sum(len(conversation.turns) for conversation in conversations)
    for conversation in spread(conversations, -(-count * len(conversations) // turns)):
        messages = list(conversation.before)
        for number, turn in enumerate(conversation.turns):
            if len(chosen) == count:
                return chosen, too_long
            if number:
                messages.append({"role": "assistant", "content": answer(messages)})
            messages.append({"role": "user", "content": turn})
            prompt = list(tokens(messages))
            if len(prompt) > longest:
                too_long += 1
                break
            chosen.append(Question(list(messages), prompt))
    return chosen, too_long
