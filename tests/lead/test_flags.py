"""Flags of conversations."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from lead.chat.conversation import ChatSettings
from lead.flags import parser


@pytest.mark.parametrize(
    ("given", "settings"),
    [
        ([], ChatSettings()),
        (["--tool-format", "glm", "--reasoning-format", "none"], ChatSettings("glm", "none")),
        (["--reasoning-budget", "-1"], ChatSettings(reasoning_budget=None)),
        (["--reasoning-budget=0"], ChatSettings(reasoning_budget=0)),
        (["--reasoning-budget", "512"], ChatSettings(reasoning_budget=512)),
    ],
)
def test_conversations(given: Sequence[str], settings: ChatSettings) -> None:
    args = parser().parse_args(given)
    assert ChatSettings(args.tool_format, args.reasoning_format, args.reasoning_budget) == settings


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--tool-format", "xml"], "argument --tool-format: invalid choice: 'xml'"),
        (["--reasoning-format", "all"], "argument --reasoning-format: invalid choice: 'all'"),
        (["--reasoning-budget", "-2"], "argument --reasoning-budget: '-2' is not a whole number of at least 0"),
    ],
)
def test_values_that_are_none(given: Sequence[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(given)
    assert ended.value.code == 2 and said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "names"), [("auto", {"backs", "draft", "heads", "memory"}), ("none", set()), ("memory", {"memory"})]
)
def test_who_guesses(text: str, names: set[str]) -> None:
    assert set(parser().parse_args(["--speculation", text]).speculation) == names


@pytest.mark.parametrize("text", ["", "ngram", "memory,", "auto,backs"])
def test_sources_that_there_are_not(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["--speculation", text])
    assert "is no source of guesses" in capsys.readouterr().err
