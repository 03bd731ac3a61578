"""The workloads: what is asked."""

from __future__ import annotations

import pytest

from bench.workloads import kinds


def test_names() -> None:
    assert kinds.chosen("all") == [*kinds.NAMES] == [*kinds.SHIPPED]
    assert kinds.chosen("chat, rewrite") == ["rewrite", "chat"]
    with pytest.raises(kinds.UnknownWorkloadError, match="'poem'"):
        kinds.chosen("poem")


@pytest.mark.parametrize("name", kinds.NAMES)
@pytest.mark.parametrize("shipped_pair", [True, False])
def test_each_has_questions_that_differ(name: str, shipped_pair: bool) -> None:
    found = kinds.conversations(name, shipped_pair)
    asked = [(str(it.before), *it.turns) for it in found]
    assert len(set(asked)) == len(asked) >= 4
    assert kinds.conversations(name, shipped_pair) == found, "the same at each call"


def test_what_is_to_be_rewritten_is_nearly_what_was_said() -> None:
    for it in kinds.conversations("rewrite", True):
        question, answer = (message["content"] for message in it.before)
        assert it.turns == [question] and len(answer.split()) > 10
