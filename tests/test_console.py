"""What the lead's console prints."""

from __future__ import annotations

import pytest

from lead.answers import BackCount, Piece, Summary
from lead.console import Console, PrintMode

PIECES = [
    Piece("plain "),
    Piece("guessed", ("one", "two"), rejected="wrong"),
    Piece("\x1b]0;title\x07\n", ("one",)),
]
GREEN, RED = "\x1b[32m", "\x1b[31;9m"


def printed(mode: PrintMode, capsys: pytest.CaptureFixture[str], summary: Summary | None = None) -> str:
    console = Console(mode)
    console.pieces(PIECES)
    if summary is not None:
        console.finished(summary)
    return capsys.readouterr().out


@pytest.fixture
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.mark.usefixtures("colours")
class TestColours:
    def test_accepted(self, capsys: pytest.CaptureFixture[str]) -> None:
        out = printed("accepted", capsys)
        assert out.startswith(f"plain {GREEN}guessed\x1b[0m")
        assert "wrong" not in out

    def test_all(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert f"{RED}wrong\x1b[0m" in printed("all", capsys)

    def test_none(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert printed("none", capsys) == ""

    def test_the_model_cannot_control_the_terminal(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Its escape sequences do not get through; its line breaks do."""
        out = printed("accepted", capsys)
        assert "\x1b]" not in out
        assert "\x07" not in out
        assert out.endswith("\n\x1b[0m")


def test_without_colours_there_is_only_the_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    assert printed("all", capsys).startswith("plain guessed")


def test_figures(capsys: pytest.CaptureFixture[str]) -> None:
    summary = Summary(
        finish_reason="stop",
        prompt_tokens=100,
        cached_tokens=60,
        completion_tokens=50,
        prompt_seconds=0.5,
        decode_seconds=2.0,
        steps=20,
        drafted=60,
        accepted=30,
        backs={"one": BackCount(40, 25), "two": BackCount(20, 5)},
    )
    out = printed("accepted", capsys, summary)
    for part in (
        "prompt 100 tokens, 60 of them cached, 80.0 tokens/s",
        "answer 50 tokens, 25.0 tokens/s",
        "30 accepted of 60 (50%), mean accepted length 1.50",
        "one: 25 of 40 (62%)",
        "two: 5 of 20 (25%)",
    ):
        assert part in out
