"""What the lead's console prints, and its live view on a terminal."""

from __future__ import annotations

import asyncio
import io
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest
from rich.console import Console as Terminal

from lead.api import Answerer, BackView, Benefit, Piece, SlotView, Speedup, Summary, Tally
from lead.console.console import Console, PrintMode
from lead.console.live import TAIL, Live
from tests.support.http import SUMMARY, ScriptedAnswerer

PIECES = [
    Piece("plain "),
    Piece("guessed", ("one", "two"), rejected="wrong"),
    Piece("\x1b]0;title\x07\n", ("one",)),
]
GREEN, RED = "\x1b[32m", "\x1b[31;9m"


def printed(mode: PrintMode, capsys: pytest.CaptureFixture[str], summary: Summary | None = None) -> str:
    console = Console(mode)
    console.first_text(1, 0.1)
    console.pieces(1, PIECES)
    if summary is not None:
        console.finished(1, summary)
    return capsys.readouterr().out


@pytest.fixture
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.fixture
def no_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("FORCE_COLOR", raising=False)


@pytest.mark.usefixtures("colours")
class TestColours:
    def test_accepted(self, capsys: pytest.CaptureFixture[str]) -> None:
        out = printed("accepted", capsys)
        assert out.startswith(f"plain {GREEN}guessed\x1b[0m")
        assert "wrong" not in out

    def test_all(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert f"{RED}wrong\x1b[0m" in printed("all", capsys)

    def test_none(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert printed("none", capsys, SUMMARY) == ""

    def test_the_model_cannot_control_the_terminal(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Its escape sequences do not get through; its line breaks do."""
        out = printed("accepted", capsys)
        assert "\x1b]" not in out
        assert "\x07" not in out
        assert out.endswith("\n\x1b[0m")


UNUSUAL = "a\u00a0b\u3000\u200d\u00ad\u2028\ue0b0\U0001fae8\u202e e\u0301"
"""Spaces, a joiner, a private glyph and a new emoji: for Python they are not printable, but they are text."""


@pytest.mark.usefixtures("no_colours")
def test_only_control_characters_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console("accepted")
    console.first_text(1, 0.1)
    console.pieces(1, [Piece(f"{UNUSUAL}\x1b[2J\r\x85\t")])
    assert capsys.readouterr().out == f"{UNUSUAL}[2J\t"


@pytest.mark.usefixtures("no_colours")
@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs a device that is always full")
def test_what_cannot_be_printed_harms_no_answer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Path("/dev/full").open("w", encoding="ascii") as full:
        monkeypatch.setattr("sys.stdout", full)
        console = Console("accepted")
        console.first_text(1, 0.1)
        console.pieces(1, [Piece("日本")])
        console.finished(1, SUMMARY)
    (said,) = caplog.messages
    assert said == "answers are printed no more: standard output cannot be written (no space left on device)"


@pytest.mark.usefixtures("no_colours")
def test_without_colours_there_is_only_the_text(capsys: pytest.CaptureFixture[str]) -> None:
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
        backs={"one": Tally(40, 25), "two": Tally(20, 5)},
        speedup=Speedup(2.1, 0.123),
    )
    out = printed("accepted", capsys, summary)
    for part in (
        "prompt 100 tokens, 60 of them cached, 80.0 tokens/s",
        "answer 50 tokens, 25.0 tokens/s",
        "2.10 x (± 0.12) as fast as without backs",
        "60 verified, 30 accepted (50%), mean accepted length 1.50",
        "one: 40 verified, 25 accepted (62%)",
        "two: 20 verified, 5 accepted (25%)",
    ):
        assert part in out


@pytest.mark.usefixtures("no_colours")
def test_answers_do_not_mix(capsys: pytest.CaptureFixture[str]) -> None:
    """One is written as it comes, the others when they have ended and it is their turn."""
    console = Console("accepted")

    def say(answer: int, text: str) -> str:
        console.pieces(answer, [Piece(text)])
        return capsys.readouterr().out

    def end(answer: int) -> list[str]:
        console.failed(answer, 499)
        return [line for line in capsys.readouterr().out.splitlines() if line]

    for answer in (1, 2, 3, 4):
        console.first_text(answer, 0.1)
    assert say(1, "one ") == "one "
    assert [say(2, "two "), say(3, "three "), say(4, "four "), say(2, "two")] == [""] * 4
    assert say(1, "one") == "one"
    assert end(2) == []
    assert end(1) == ["(broken off)", "two two", "(broken off)"]
    # Two are left: neither is alone.
    assert [say(3, "three"), say(4, "four ")] == [""] * 2
    assert end(3) == ["three three", "(broken off)", "four four "]
    assert say(4, "four") == "four"
    assert end(4) == ["(broken off)"]
    console.first_text(5, 0.1)
    assert say(5, "five") == "five"


THINKING = [
    Piece("<think>", token=1, thought=True),
    Piece("Hm", ("one",), token=2, thought=True),
    Piece(".</think>", token=3, thought=True),
    Piece("\n", token=4),
    Piece("Two", token=5),
]


@pytest.mark.usefixtures("colours")
def test_thinking_is_dim(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console("accepted")
    console.first_text(1, 0.1)
    console.pieces(1, THINKING)
    assert capsys.readouterr().out == ("\x1b[2m<think>\x1b[0m\x1b[2m\x1b[32mHm\x1b[0m\x1b[2m.</think>\x1b[0m\nTwo")


@pytest.mark.parametrize(("told", "expected"), [(5, "\nthought for 3 tokens\nTwo"), (2, "thought for 2 tokens\n")])
def test_thinking_is_one_line_above_the_live_view(told: int, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    here, out = terminal()
    monkeypatch.setattr("lead.console.console.Terminal", lambda: here)

    async def run() -> None:
        console = Console("accepted")
        console.watch(cast(Answerer, ScriptedAnswerer()))
        console.first_text(1, 0.1)
        for piece in THINKING[:told]:
            console.pieces(1, [piece])
        console.failed(1, 499)
        await console.stop()

    asyncio.run(run())
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue()).replace("\r", "")
    assert expected in plain and "Hm" not in plain and "<think>" not in plain


# -- The live view -------------------------------------------------------------------------------------------------


def terminal(width: int = 80, height: int = 24) -> tuple[Terminal, io.StringIO]:
    out = io.StringIO()
    return Terminal(file=out, force_terminal=True, width=width, height=height, legacy_windows=False), out


@pytest.fixture
def busy() -> ScriptedAnswerer:
    answerer = ScriptedAnswerer()
    answerer.waiting = 2
    answerer.slot_views = [
        SlotView(0, "answering", 20, 20, 7, 12.34),
        SlotView(1, "idle"),
        SlotView(2, "reading", 900, 256),
    ]
    answerer.views = [
        BackView("attic\x1b[2J", "tiny-1m", "drafting", 1.25, 40, 30),
        BackView("b", "m", "silent", None, 0, 0),
    ]
    return answerer


def lines(live: Live, now: float = 1e9) -> Sequence[str]:
    return live.frame(now).plain.splitlines()


@pytest.mark.usefixtures("colours")
class TestLive:
    def test_what_it_shows(self, busy: ScriptedAnswerer) -> None:
        live = Live(terminal()[0], cast(Answerer, busy))
        live.began(7)
        live.pieces(7, [Piece("plain "), Piece("gues\x1b[2Jsed", ("attic",)), Piece("\n\nlast")])
        seen = [" ".join(line.split()) for line in lines(live)]
        assert seen[1].startswith("fake-13m on ") and seen[1].endswith(" · 2 of 3 slots busy · 2 waiting")
        for expected in (
            "slot state prompt tokens tokens/s",
            "0 answering 20 7 12.3",
            "2 reading 256 of 900 0 -",
            "attic[2J tiny-1m drafting - 40 75% 1.2 ms",
            "b m silent - 0 - -",
        ):
            assert expected in seen
        assert seen[-3:] == ["answer 7", "plain gues[2Jsed", "last"]
        frame = live.frame(1e9)
        green = [frame.plain[span.start : span.end] for span in frame.spans if span.style == "green"]
        assert "".join(green) == "gues[2Jsed"

    def test_thinking_is_dim_while_it_goes_on(self, busy: ScriptedAnswerer) -> None:
        live = Live(terminal()[0], cast(Answerer, busy))
        live.began(7)
        live.pieces(7, THINKING[:2])
        frame = live.frame(1e9)
        assert lines(live)[-1] == "<think>Hm"
        assert any(span.style == "dim" and frame.plain[span.start : span.end] == "<think>Hm" for span in frame.spans)
        live.pieces(7, THINKING[2:])
        assert lines(live)[-3:] == ["answer 7", "thought for 3 tokens", "Two"]

    def test_what_backs_bring(self, busy: ScriptedAnswerer) -> None:
        live = Live(terminal()[0], cast(Answerer, busy))
        busy.benefit = Benefit(0.96, 0.02, 18.9, 19.6, "resting", 180)
        busy.views = [BackView("attic", "tiny-1m", "resting", 1.25, 40, 30)]
        seen = lines(live)
        assert "resting: 19.6 tokens/s without backs, 18.9 with them; next trial in 180 tokens" in seen
        assert any(line.split()[:3] == ["attic", "tiny-1m", "resting"] for line in seen)

    def test_guesses_per_second(self, busy: ScriptedAnswerer) -> None:
        live = Live(terminal()[0], cast(Answerer, busy))
        lines(live, 100.0)
        busy.views = [BackView("attic\x1b[2J", "tiny-1m", "drafting", 1.25, 100, 30)]
        assert any(line.split()[3:5] == ["30", "100"] for line in lines(live, 102.0) if line.startswith("attic"))

    @pytest.mark.parametrize(("width", "height"), [(80, 24), (20, 8), (40, 3), (200, 60)])
    def test_it_fits(self, busy: ScriptedAnswerer, width: int, height: int) -> None:
        """However many answers, slots and backs there are, and however much they say."""
        live = Live(terminal(width, height)[0], cast(Answerer, busy))
        busy.slot_views = [SlotView(n, "answering", 20, 20, 7, 12.34) for n in range(50)]
        busy.views = [BackView(f"{n}" * 100, "日本" * 50, "drafting", None, 0, 0) for n in range(50)]
        for answer in range(30):
            live.began(answer)
            live.pieces(answer, [Piece("日本 word\n" * 10)] * (TAIL // 10))
        frame = live.frame(1e9)
        assert len(frame.plain.splitlines()) < height
        assert all(line.cell_len <= width for line in frame.split())

    def test_log_lines_and_whole_answers_stay_above_it(
        self, busy: ScriptedAnswerer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And the log writes where it did before when the view has ended."""
        here, out = terminal()
        log = logging.getLogger()
        stream = io.StringIO()
        monkeypatch.setattr(stream, "isatty", lambda: True)
        handler = logging.StreamHandler(stream)
        monkeypatch.setattr(log, "handlers", [handler])

        async def run() -> None:
            live = Live(here, cast(Answerer, busy))
            live.start()
            await asyncio.sleep(0)  # the first frame
            live.began(1)
            log.warning("something happened")
            live.finished(1, "the whole answer\n")
            await live.stop()

        asyncio.run(run())
        shown = out.getvalue()
        assert shown.index("something happened") < shown.index("the whole answer") < shown.rindex("slots busy")
        assert stream.getvalue() == "" and handler.stream is stream
        # The cursor is there again.
        assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")

    def test_a_view_that_fails_takes_nothing_with_it(
        self, busy: ScriptedAnswerer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken() -> Sequence[SlotView]:
            raise RuntimeError("no slots today")

        monkeypatch.setattr(busy, "slots", broken)

        async def run() -> None:
            live = Live(terminal()[0], cast(Answerer, busy))
            live.start()
            await asyncio.sleep(0)
            live.began(1)
            live.finished(1, "answer\n")
            await live.stop()

        asyncio.run(run())
        assert "the live view has stopped" in caplog.text
