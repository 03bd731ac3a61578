"""Files of prompts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from duo.errors import FileError
from duo.program.prompts import Conversation, read


def test_prompts_of_both_forms(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    said = [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    lines = [{"question_id": 81, "turns": ["one", "two"]}, {"messages": [*said, {"role": "user", "content": "c"}]}]
    file.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    assert read(file) == [Conversation(["one", "two"]), Conversation(["c"], said)]


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
        read(file)
