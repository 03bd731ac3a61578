"""Questions: those of any model, or those that the shipped models know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from duo.program.prompts import Conversation, Message
from lead.match.general import GENERAL

T = TypeVar("T")


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
