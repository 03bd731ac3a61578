"""The questions that are made of prompts."""

from __future__ import annotations

from collections.abc import Sequence

from duo.program.prompts import Conversation, Message
from lead.match import prompts


def test_later_turns_come_with_the_answers_before_them() -> None:
    asked: list[int] = []

    def answer(messages: Sequence[Message]) -> str:
        asked.append(len(messages))
        return "an answer"

    talks = [Conversation(["a", "b"]), Conversation(["long" * 9]), Conversation(["c"])]
    found, too_long = prompts.questions(talks, 4, 30, lambda ms: [0] * sum(len(m["content"]) for m in ms), answer)
    assert too_long == 1 and asked == [1]
    assert [[m["content"] for m in q.messages] for q in found] == [["a"], ["a", "an answer", "b"], ["c"]]


def test_prompts_are_taken_from_all_over_the_file() -> None:
    assert prompts.spread(range(480), 6) == [0, 80, 160, 240, 320, 400]
    assert prompts.spread([1, 2], 6) == [1, 2]
