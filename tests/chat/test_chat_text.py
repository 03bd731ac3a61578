"""Nothing of an answer is lost on its way to the terminal, and no answer steers it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from rich.text import Text

import chat
from bench.harness.terminal import Terminal
from tests.support.fake_lead import FakeLead, serving

MARKS = (
    "#include <vector>", "if a<b and c>d", "<think>", "</think>", "&lt;", "&#27;[2J", "<!-- hidden -->", "<br/>",
    "[text](http://a.example/b \"title\")", "![image](x.png)", "[ref]: http://a.example", "[^1]: note", "| a | b |",
    "|---|:-:|", "```", "```python", "~~~~", "    code", "\tdef f(x):", "`code`", "``a ` b``", "**bold**", "*it*",
    "__init__", "***", "~~gone~~", "# Title", "###### Six", "> quote", "- item", "  10. item", "---", "===", "\\*",
    "a" * 90, "word " * 30, ":smile:", "[bold]rich[/bold]", "'''", '"""', "/*", "*/",
)  # fmt: skip
CONTROLS = ("\x1b[2J", "\x1b]0;title\x07", "\r", "\x08", "\x0b", "\x0c", "\x7f", "\x9b31m", "\x85", "\x00")
LETTERS = (
    "é",
    "e\u0301",
    "日本語",
    "한국어",
    "🎉",
    "👩‍👩‍👧",
    "🇩🇪",
    "שלום",
    "مرحبا",
    "\u202eabc\u202c",
    "\u200b",
    "\u2028",
    "\u00a0",
    "\ufeff",
)
PLAIN_LETTERS = ("é", "日本語", "粗体", "שלום", "Ω", "┌─┐")
"""What the emulator of a terminal can draw: no joined and no combining characters."""


def texts(*fragments: str) -> st.SearchStrategy[str]:
    part = st.one_of(st.sampled_from(fragments), st.sampled_from(" \n\n"), st.text("ab* _`#|<>~\n", max_size=6))
    return st.lists(part, max_size=25).map("".join)


ANSWERS = st.one_of(texts(*MARKS, *CONTROLS, *LETTERS), st.text(max_size=80))


def printable(text: str) -> str:
    """Without control characters and space."""
    return "".join(c for c in text if unicodedata.category(c) != "Cc" and not c.isspace())


def cut(text: str, sizes: Sequence[int]) -> list[str]:
    """The text in pieces of these sizes, and the rest."""
    pieces = []
    for size in sizes:
        pieces.append(text[:size])
        text = text[size:]
    return [*pieces, text]


def shown(pieces: Sequence[str], width: int) -> Text:
    styler = chat.Styler(width)
    whole = Text()
    for piece in pieces:
        whole.append_text(styler.push(chat.clean(piece)))
    return whole.append_text(styler.end())


def check_that_nothing_is_lost(text: str, sizes: Sequence[int], width: int) -> None:
    pieces = cut(text, sizes)
    found = shown(pieces, width).plain
    assert printable(found) == printable(text)
    assert not any(unicodedata.category(c) == "Cc" and c not in "\n\t" for c in found)
    assert found == shown(text, width).plain  # each character for itself


SIZES, WIDTHS = st.lists(st.integers(0, 12), max_size=20), st.integers(1, 100)


@given(ANSWERS, SIZES, WIDTHS)
@example("```c\n#include <vector>\n```\nif a<b and c>d <think>\n\nhm </think>", (), 80)
@example("many *words* in `one` line " * 60, (7, 1500), 80)
@settings(max_examples=60)
def test_nothing_is_lost(text: str, sizes: Sequence[int], width: int) -> None:
    check_that_nothing_is_lost(text, sizes, width)


@pytest.mark.slow
@given(ANSWERS, SIZES, WIDTHS)
@settings(max_examples=2000)
def test_nothing_is_lost_at_length(text: str, sizes: Sequence[int], width: int) -> None:
    check_that_nothing_is_lost(text, sizes, width)


def test_words_come_when_they_are_complete() -> None:
    styler = chat.Styler(80)
    assert [styler.push(piece).plain for piece in ("on", "e t", "wo", "\n```py\nx =", " 1\n", "``", "`\n日", "本")] == [
        "", "one ", "", "two\n```py\n", "x = 1\n", "", "```\n", "日"
    ]  # fmt: skip
    assert styler.end().plain == "本\n"


@given(st.lists(st.text("abc*`_", min_size=1, max_size=9), min_size=1, max_size=60).map(" ".join))
@settings(max_examples=60)
def test_lines_are_broken_between_words(text: str) -> None:
    lines = shown([text], 20).plain.rstrip("\n").split("\n")
    assert all(len(line) <= 20 for line in lines)
    # Where a line ends, the next word has no room, with the space after it.
    firsts = [line.lstrip().split(" ")[0] for line in lines]
    assert all(
        len(line) + len(first) + 1 > 20 for line, first in zip(lines, firsts[1:], strict=False) if line.strip("*_`")
    )


def test_items_are_indented_where_they_go_on() -> None:
    text = "- one two three four five\n  1. six seven eight nine ten"
    assert shown([text], 16).plain == "- one two three \n  four five\n  1. six seven \n     eight nine \n     ten\n"


def test_chinese_is_broken_between_characters() -> None:
    assert shown(["日本語日本語"], 7).plain == "日本語\n日本語\n"


def test_a_line_of_code_stays_one_line() -> None:
    """The terminal breaks it. Then it can be copied."""
    code = "x = [" + "1, " * 40 + "2]"
    text = f"```python\n{code}\n\tif a:\n```\nand so on\n"
    for pieces in ([text], text):
        assert shown(pieces, 30).plain == text


def styles(text: str, pieces: Sequence[str] | None = None) -> dict[str, str]:
    """Style of each word, as it comes letter by letter."""
    line = shown(pieces or text, 200)
    found = {}
    for word in re.finditer(r"\S+", line.plain):
        spans = [span.style for span in line.spans if span.start <= word.start() and word.end() <= span.end]
        found[word[0]] = " ".join(map(str, spans))
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a **bo ld** b", {"**bo": "bold", "ld**": "bold", "a": "", "b": ""}),
        ("a *it* b __bo__ _i_ c", {"*it*": "italic", "b": "", "__bo__": "bold", "_i_": "italic", "c": ""}),
        ("2*3 * 4 snake_case_name f", {"2*3": "", "*": "", "4": "", "snake_case_name": "", "f": ""}),
        ("see `*args` and", {"`*args`": "cyan", "and": ""}),
        ("# Title two\nrest", {"#": "bold", "two": "bold", "rest": ""}),
        ("> quote\n#no", {"quote": "italic", "#no": ""}),
        ("- ```\n  a **b**\n  ```\nc", {"a": "cyan", "**b**": "cyan", "c": ""}),
        ("**never closed\nb", {"closed": "bold", "b": ""}),
    ],
)
def test_styles(text: str, expected: dict[str, str]) -> None:
    found = styles(text)
    assert {word: found[word] for word in expected} == expected


def test_code_has_the_colours_of_its_language() -> None:
    """Also within a string that began some lines before."""
    found = styles('```python\nreturn x\ny = """\nreturn\n"""\n```\nreturn')
    assert found["x"] != found["y"] or found["x"] == ""
    lines = shown('```python\nreturn 1\n"""\nwithin\n"""\n```\n', 80)
    colour = {
        word: {str(s.style) for s in lines.spans if s.start <= lines.plain.index(word) < s.end}
        for word in ("return", "within")
    }
    assert colour["return"] and colour["within"] and colour["return"] != colour["within"]


# -- On a terminal -------------------------------------------------------------------------------------------------

END = "3.0 tokens/s · 6 tokens"
OURS = re.compile(r"\x1b\[[0-9;]*m|\x1b\[\?2004[hl]\r?")
"""Styles, and what readline says at the prompt."""


class Talk:
    """chat.py on a terminal whose screen has room for a whole answer."""

    def __init__(self, lead: FakeLead, here: Terminal) -> None:
        self.lead, self.here = lead, here
        self.wait("\n> ")

    def wait(self, for_text: str) -> str:
        """What comes up to a text of this kind and the prompt after it, without styles."""
        seen = b""
        text = ""
        while not (for_text in text and text.endswith("\n> ")):
            seen += self.here.read()
            text = OURS.sub("", seen.decode("utf-8", "replace"))
        return text

    def answer(self, pieces: Sequence[str]) -> str:
        """What the terminal is sent for an answer, without styles."""
        self.lead.deltas = [{"content": piece} for piece in pieces if piece]
        self.here.screen.reset()
        self.here.type("q\n")
        text = self.wait(END)
        return text[text.index("\n") + 1 : text.rindex(END)]


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Talk]:
    lead = FakeLead()
    state: Path = tmp_path_factory.mktemp("state")
    with (
        serving(lead) as url,
        Terminal([chat.__file__, url], {"XDG_STATE_HOME": str(state)}, columns=40, lines=600) as here,
    ):
        yield Talk(lead, here)


def check_the_terminal(talk: Talk, text: str, sizes: Sequence[int], *, can_be_drawn: bool) -> None:
    sent = talk.answer(cut(text, sizes))
    # Apart from styles nothing steers the terminal. So what is sent is what is on the screen.
    assert not any(unicodedata.category(c) == "Cc" and c not in "\r\n\t" for c in sent), sent
    # A lone surrogate is no character: it is shown as a question mark.
    assert printable(sent) == printable(re.sub("[\ud800-\udfff]", "?", text))
    if can_be_drawn:
        screen = talk.here.text()
        answer = screen[screen.index("\n") : screen.rindex(END)]
        assert printable(answer) == printable(text)


TERMINAL = settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
DRAWN = texts(*MARKS, *CONTROLS, *PLAIN_LETTERS)


@given(ANSWERS, SIZES)
@example("#include <vector>\n\nif a<b and c>d\n\n<think>\nhm\n</think>\n\n\x1b[2J&amp;", ())
@TERMINAL
def test_nothing_is_lost_on_a_terminal(talk: Talk, text: str, sizes: Sequence[int]) -> None:
    check_the_terminal(talk, text, sizes, can_be_drawn=False)


@given(DRAWN, SIZES)
@TERMINAL
def test_everything_is_on_the_screen(talk: Talk, text: str, sizes: Sequence[int]) -> None:
    check_the_terminal(talk, text, sizes, can_be_drawn=True)


@pytest.mark.slow
@given(ANSWERS, DRAWN, SIZES)
@settings(TERMINAL, max_examples=150)
def test_nothing_is_lost_on_a_terminal_at_length(talk: Talk, any_text: str, drawn: str, sizes: Sequence[int]) -> None:
    check_the_terminal(talk, any_text, sizes, can_be_drawn=False)
    check_the_terminal(talk, drawn, sizes, can_be_drawn=True)
