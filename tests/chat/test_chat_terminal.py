"""chat.py on a terminal, with a person's keys."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import chat
from duo.errors import ContextError, DuoError
from lead.api import Piece
from tests.support.chat import CHAT, ENVIRONMENT, SUMMARY_LINE, free_port
from tests.support.http import PATIENCE, AnswerGate, ScriptedAnswerer, serving

CTRL_C, CTRL_D = "\x03", "\x04"


class Terminal:
    """chat.py with a terminal of its own, and someone at its keys who waits for what is on the screen."""

    def __init__(self, *arguments: str) -> None:
        self.pid, self.screen = pty.fork()
        if self.pid == 0:
            os.execve(sys.executable, [sys.executable, str(CHAT), *arguments], ENVIRONMENT)
        self.status: int | None = None
        self._unread = b""
        self._pressed = ""

    def type(self, keys: str) -> None:
        self._pressed = keys
        os.write(self.screen, keys.encode())

    def expect(self, text: str) -> str:
        """What is on the screen up to `text`, since the last time."""
        wanted = text.encode()
        while wanted not in self._unread:
            assert self._read(), f"{text!r} did not come, but {self._unread.decode()!r}"
        seen, _, self._unread = self._unread.partition(wanted)
        return seen.decode().replace("\r\n", "\n")

    def exit_code(self) -> int:
        """After everything that was still to come."""
        while self._read():
            pass
        _, status = os.waitpid(self.pid, 0)
        self.status = os.waitstatus_to_exitcode(status)
        return self.status

    def _read(self) -> bool:
        if self._pressed == CTRL_C and not self._readable(PATIENCE / 4):
            # Python sees a signal that came just before it began to wait in C only with the next one. A person
            # presses again, too.
            os.write(self.screen, CTRL_C.encode())
        assert self._readable(PATIENCE), f"nothing more within {PATIENCE} s; so far {self._unread.decode()!r}"
        # Linux reports the other side's end as an error, others as an empty read.
        part = b""
        with suppress(OSError):
            part = os.read(self.screen, 65536)
        self._unread += part
        return bool(part)

    def _readable(self, seconds: float) -> bool:
        return bool(select.select([self.screen], [], [], seconds)[0])

    def close(self) -> None:
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.screen)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(*arguments: str) -> Terminal:
        opened.append(Terminal(*arguments))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


def test_a_conversation(url: str, answerer: ScriptedAnswerer, terminal: Callable[..., Terminal]) -> None:
    answerer.script = [("Hello", ",\n"), ("wor\x1b[2Jld",)]
    here = terminal(url)
    here.expect(f"talking to fake-13m at {url}; :help lists the commands\r\n> ")
    here.type("one\n")
    # What would steer the terminal is not shown.
    assert here.expect(SUMMARY_LINE).startswith("one\nHello,\nwor[2Jld\n")
    here.expect("> ")
    here.type("two\n")
    here.expect(SUMMARY_LINE)
    here.expect("> ")
    answerer.next_asked()
    assert len(answerer.next_asked().messages) == 3
    here.type(":new\n")
    here.expect("a new conversation\r\n> ")
    here.type("three\n")
    here.expect("> ")
    assert len(answerer.next_asked().messages) == 1
    here.type(":stats\n")
    here.expect("this chat")
    here.expect("no back is connected\r\n> ")
    here.type(":sing\n")
    here.expect("no command :sing: :help lists them\r\n> ")
    here.type(":help\n")
    here.expect(":stats")
    here.expect("> ")
    here.type(":q\n")
    assert here.exit_code() == 0


@pytest.mark.parametrize(("typed", "keys"), [("", CTRL_D), ("", CTRL_C), ("", ":exit\n"), ("half a line", CTRL_C)])
def test_ways_to_leave(
    url: str, answerer: ScriptedAnswerer, terminal: Callable[..., Terminal], typed: str, keys: str
) -> None:
    here = terminal(url)
    here.expect("> ")
    if typed:
        here.type(typed)
        here.expect(typed)
    here.type(keys)
    assert here.exit_code() == 0
    assert answerer.asked.empty()


def test_ctrl_c_stops_the_answer_and_not_the_chat(
    url: str, answerer: ScriptedAnswerer, terminal: Callable[..., Terminal]
) -> None:
    answerer.script = [("Once upon",), AnswerGate()]
    here = terminal(url)
    here.expect("> ")
    here.type("a story\n")
    here.expect("Once upon")
    stopped = answerer.next_asked()
    here.type(CTRL_C)
    here.expect("stopped\r\n> ")
    assert stopped.cancelled.wait(PATIENCE)
    answerer.script = [("The end",)]
    here.type("go on\n")
    here.expect("The end\r\n")
    here.expect("> ")
    # What had been said is part of the conversation.
    assert [turn["content"] for turn in answerer.next_asked().messages] == ["a story", "Once upon", "go on"]
    here.type(CTRL_D)
    assert here.exit_code() == 0


def test_errors_do_not_end_the_conversation(
    url: str, answerer: ScriptedAnswerer, terminal: Callable[..., Terminal]
) -> None:
    here = terminal(url)
    here.expect("> ")
    answerer.script = [("Hel",), DuoError("the engine lost its context")]
    here.type("one\n")
    here.expect("Hel\r\nthe lead ended the answer: the engine lost its context\r\n> ")
    # A lead that was started again.
    answerer.ready = False
    answerer.script = [("Hello",)]
    here.type("two\n")
    here.expect("is loading its model, waiting for it")
    answerer.ready = True
    here.expect("Hello\r\n")
    here.expect("> ")
    answerer.next_asked()
    assert [turn["content"] for turn in answerer.next_asked().messages] == ["two"]
    here.type(CTRL_D)
    assert here.exit_code() == 0


def test_the_lead_goes_away_under_a_conversation(terminal: Callable[..., Terminal]) -> None:
    answerer = ScriptedAnswerer()
    with serving(answerer) as url:
        here = terminal(url)
        here.expect("> ")
    here.type("one\n")
    here.expect(f"no lead at {url}: ")
    here.expect("> ")
    here.type(":stats\n")
    here.expect(f"no lead at {url}: ")
    here.expect("> ")
    here.type(CTRL_D)
    assert here.exit_code() == 0


def test_no_lead_for_a_terminal(terminal: Callable[..., Terminal]) -> None:
    here = terminal(f"127.0.0.1:{free_port()}")
    here.expect("chat.py: no lead at http://127.0.0.1:")
    assert here.exit_code() == 1


def test_settings_last_and_can_be_taken_back(
    url: str, answerer: ScriptedAnswerer, terminal: Callable[..., Terminal]
) -> None:
    here = terminal(url, "--seed", "7")
    here.expect("> ")
    for typed, told in (
        (":system Be brief.", "system: Be brief."),
        (":temp 0.25", "temperature: 0.25"),
        (":seed", "seed: 7"),
        (":seed soon", ":seed: 'soon' is not a whole number"),
        (":temp nan", ":temperature: 'nan' is not a number of at least 0"),
        (":temp inf", ":temperature: 'inf' is not a number of at least 0"),
        (":temp", "temperature: 0.25"),
        (":s 5", ":s may be :save or :seed or :stats or :system"),
        (":new now", ":new takes nothing after it, and not 'now'"),
    ):
        here.type(f"{typed}\n")
        here.expect(f"{told}\r\n> ")
    here.type("one\n")
    here.expect("Hello, world!\r\n")
    here.expect("> ")
    asked = answerer.next_asked()
    assert asked.messages[0] == {"role": "system", "content": "Be brief."}
    assert (asked.question.sampling.temperature, asked.question.sampling.seed) == (0.25, 7)
    for name in ("system", "temp", "seed"):
        here.type(f":{name} none\n")
        here.expect("not set\r\n> ")
    here.type("two\n")
    here.expect("Hello, world!\r\n")
    asked = answerer.next_asked()
    assert [turn["role"] for turn in asked.messages] == ["user", "assistant", "user"]
    assert asked.question.sampling.temperature == 0.8


def test_retry_and_tokens(url: str, answerer: ScriptedAnswerer, terminal: Callable[..., Terminal]) -> None:
    answerer.script = [("A ", Piece("gue\x1b[2Jss", ("attic",)), " and"), (Piece(" more", ("cellar",)),)]
    here = terminal(url)
    here.expect("> ")
    here.type(":tokens\n")
    here.expect("no answer whose guesses are known: ask something first\r\n> ")
    here.type(":retry\n")
    here.expect("nothing has been asked that could be asked again\r\n> ")
    here.type("one\n")
    here.expect(SUMMARY_LINE)
    here.expect("> ")
    here.type(":tok\n")
    here.expect("A gue[2Jss and more\r\n2 of 4 pieces had been guessed: by attic, cellar\r\n> ")
    answerer.refusal = ContextError("the prompt has 5000 tokens")
    here.type(":retry\n")
    here.expect("the prompt has 5000 tokens\r\n> ")
    answerer.refusal = None
    here.type(":retry\n")
    here.expect(SUMMARY_LINE)
    for _ in range(2):
        assert list(answerer.next_asked().messages) == [{"role": "user", "content": "one"}]


def test_an_answer_that_is_stopped_before_its_first_word_changes_nothing(
    url: str, answerer: ScriptedAnswerer, terminal: Callable[..., Terminal]
) -> None:
    here = terminal(url)
    here.expect("> ")
    here.type("one\n")
    here.expect(SUMMARY_LINE)
    here.expect("> ")
    answerer.next_asked()
    for line in (":retry", "two"):
        answerer.script = [AnswerGate()]
        here.type(f"{line}\n")
        assert answerer.next_asked().messages[-1]["role"] == "user"
        here.type("\x03")
        here.expect("> ")
    answerer.script = [("fine",)]
    here.type("three\n")
    here.expect(SUMMARY_LINE)
    assert [turn["content"] for turn in answerer.next_asked().messages] == ["one", "Hello, world!", "three"]


def test_save_and_load(url: str, answerer: ScriptedAnswerer, terminal: Callable[..., Terminal], tmp_path: Path) -> None:
    file = tmp_path / "talk with spaces.json"
    here = terminal(url, "--system", "Be brief.")
    here.expect("> ")
    here.type("ü\n")
    here.expect(SUMMARY_LINE)
    here.expect("> ")
    here.type(f":save {file}\n")
    here.expect(": 2 messages\r\n> ")
    system, *talk = saved = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "ü"},
        {"role": "assistant", "content": "Hello, world!"},
    ]
    assert json.loads(file.read_text(encoding="utf-8")) == {"messages": saved}
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".new"] == []
    here.type(CTRL_D)
    assert here.exit_code() == 0
    answerer.next_asked()
    # In another chat.
    here = terminal(url)
    here.expect("> ")
    here.type(f":load {file}\n")
    here.expect(": 2 messages\r\n> ")
    here.type("two\n")
    here.expect(SUMMARY_LINE)
    here.expect("> ")
    assert list(answerer.next_asked().messages) == [system, *talk, {"role": "user", "content": "two"}]
    for bad in ("[1]", "{}", "[", json.dumps(saved[:2]), json.dumps({"messages": [{"role": "user", "content": 5}]})):
        file.write_text(bad, encoding="utf-8")
        here.type(f":load {file}\n")
        here.expect("is not a saved conversation: JSON with messages, of user and assistant in turns\r\n> ")
    here.type(f":load {tmp_path / 'nowhere'}\n")
    here.expect("no such file or directory\r\n> ")
    here.type(f":save {tmp_path / 'no' / 'where'}\n")
    here.expect("no such file or directory\r\n> ")
    here.type(":save\n")
    here.expect(":save needs the name of a file\r\n> ")


def test_save_through_a_link_and_to_a_device(
    url: str, answerer: ScriptedAnswerer, terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    file, link, device = tmp_path / "file", tmp_path / "link", tmp_path / "device"
    link.symlink_to(file)
    os.mkfifo(device)
    here = terminal(url)
    here.expect("> ")
    with device.open("r+b", buffering=0) as reader:
        for path in (link, device):
            here.type(f":save {path}\n")
            here.expect(": 0 messages\r\n> ")
        assert reader.read(100).startswith(b"{")
    assert link.is_symlink() and json.loads(file.read_text()) == {"messages": []} and device.is_fifo()


def test_questions_of_several_lines(url: str, answerer: ScriptedAnswerer, terminal: Callable[..., Terminal]) -> None:
    here = terminal(url)
    for typed, asked in (
        (("one \\", "two\\", "three"), "one\ntwo\nthree"),
        (('"""def f():', "    return 1", "", ':new"""'), "def f():\n    return 1\n\n:new"),
        (('"""', "x", '"""'), "x"),
        (('"""a"""',), "a"),
    ):
        here.expect("> ")
        *first, last = typed
        for line in first:
            here.type(f"{line}\n")
            here.expect(". ")
        here.type(f"{last}\n")
        here.expect(SUMMARY_LINE)
        assert answerer.next_asked().messages[-1]["content"] == asked


def test_history(url: str, answerer: ScriptedAnswerer, terminal: Callable[..., Terminal], state: Path) -> None:
    """A later chat knows the lines of a former one, and nobody else does."""
    pytest.importorskip("readline")
    here = terminal(url)
    here.expect("> ")
    here.type("the first question\n")
    here.expect(SUMMARY_LINE)
    here.expect("> ")
    here.type(CTRL_D)
    assert here.exit_code() == 0
    file = state / "duo" / "chat_history"
    assert file.stat().st_mode & 0o777 == 0o600
    answerer.next_asked()
    here = terminal(url)
    here.expect("> ")
    here.type("\x10\n")  # Ctrl-P, which a dumb terminal has too
    here.expect(SUMMARY_LINE)
    assert answerer.next_asked().messages[-1]["content"] == "the first question"


def test_ctrl_c_while_the_lead_is_loading(
    url: str, answerer: ScriptedAnswerer, terminal: Callable[..., Terminal]
) -> None:
    answerer.ready = False
    here = terminal(url)
    here.expect("is loading its model")
    here.type(CTRL_C)
    assert here.exit_code() == 130


def test_main_is_the_console_script(
    url: str, answerer: ScriptedAnswerer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\n"))
    assert chat.main([url]) == 0
    assert capsys.readouterr() == ("Hello, world!\n", "")
