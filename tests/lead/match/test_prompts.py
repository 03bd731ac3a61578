"""Files of prompts, and the questions made of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from duo.errors import FileError
from lead.match import prompts
from lead.match.prompts import Conversation


def test_prompts_of_both_forms(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    said = [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    lines = [{"question_id": 81, "turns": ["one", "two"]}, {"messages": [*said, {"role": "user", "content": "c"}]}]
    file.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    assert prompts.read(file) == [Conversation(["one", "two"]), Conversation(["c"], said)]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "no prompts in it"),
        ("{}", ":1: neither `turns` nor `messages`"),
        ('{"turns": ["a"]}\nnonsense', ":2: not JSON"),
        ('{"turns": [1]}', ":1: `turns` must be"),
        ('{"messages": [{"role": "system", "content": "s"}]}', ":1: `messages` must be"),
    ],
)
def test_prompts_that_cannot_be_used(tmp_path: Path, text: str, error: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(text)
    with pytest.raises(FileError, match=error):
        prompts.read(file)


def test_later_turns_come_with_the_answers_before_them() -> None:
    asked: list[int] = []

    def answer(messages: Sequence[prompts.Message]) -> str:
        asked.append(len(messages))
        return "an answer"

    talks = [Conversation(["a", "b"]), Conversation(["long" * 9]), Conversation(["c"])]
    found, too_long = prompts.questions(talks, 4, 30, lambda ms: [0] * sum(len(m["content"]) for m in ms), answer)
    assert too_long == 1 and asked == [1]
    assert [[m["content"] for m in q.messages] for q in found] == [["a"], ["a", "an answer", "b"], ["c"]]


def test_prompts_are_taken_from_all_over_the_file() -> None:
    assert prompts.spread(range(480), 6) == [0, 80, 160, 240, 320, 400]
    assert prompts.spread([1, 2], 6) == [1, 2]
