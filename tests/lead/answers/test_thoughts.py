"""Which pieces of an answer are thinking."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from lead.answers.thoughts import Thoughts
from lead.api import ThinkingMarks

USUAL = ThinkingMarks(["<think>"], ["</think>"])
BEGUN = ThinkingMarks(["<think>"], ["</think>"], begun=True)
AT_FIRST = ThinkingMarks(["<think>"], ["</think>"], anywhere=False)


@pytest.mark.parametrize(
    ("marks", "pieces", "thought"),
    [
        (ThinkingMarks(), ["<think>", "a", "</think>", "b"], ""),
        (USUAL, ["<think>", "a", "</think>", "b"], "<think> a </think>"),
        (USUAL, ["b", "<think>", "a", "</think>", "b", "<think>a</think>"], "<think> a </think> <think>a</think>"),
        # A mark of several tokens is known at its end.
        (USUAL, ["<", "think", ">", "a", "</", "think", ">", "b"], "> a </ think >"),
        (BEGUN, ["a", "", "</think>", "b"], "a  </think>"),
        (AT_FIRST, ["\n", "<th", "ink>", "a", "</think>", "b"], "ink> a </think>"),
        (AT_FIRST, ["so: ", "<think>", "a"], ""),
        (AT_FIRST, ["<thing>", "<think>", "a"], ""),
        (ThinkingMarks(["<a>"], ["<b>", "<c>"]), ["<a>", "x", "<c>", "y", "<a>", "<b>"], "<a> x <c> <a> <b>"),
    ],
)
def test_thinking(marks: ThinkingMarks, pieces: Sequence[str], thought: str) -> None:
    thoughts = Thoughts(marks)
    assert " ".join([piece for piece in pieces if thoughts.take(piece)]) == thought
