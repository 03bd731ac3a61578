"""chat.py as the program that it is: behind pipes, and on a terminal with a person's keys.

The lead at the other end is the real HTTP side with scripted answers (see http_server), or a socket that misbehaves.
"""

from __future__ import annotations

import ast
import io
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

import chat
from duo.errors import ContextError, DuoError
from lead.answers import BackView
from tests.http_server import PATIENCE, Gate, ScriptedAnswerer, serving

CHAT = Path(chat.__file__)
SUMMARY_LINE = "6 tokens · 3.0 tokens/s · 3 of 5 guesses accepted (60%)"


def test_it_can_be_copied_elsewhere() -> None:
    """Only the standard library, requests and rich."""
    imported = set()
    for node in ast.walk(ast.parse(CHAT.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module
            imported.add(node.module.split(".")[0])
    assert imported - sys.stdlib_module_names == {"requests", "rich"}


# -- Behind pipes --------------------------------------------------------------------------------------------------


def pipe(*arguments: str, questions: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(CHAT), *arguments]
    return subprocess.run(
        command, input=questions, capture_output=True, encoding="utf-8", timeout=30, check=False, env=ENVIRONMENT
    )


# A dumb terminal sends no control sequences, and UTF-8 must not depend on where the tests run.
ENVIRONMENT = {**os.environ, "TERM": "dumb", "PYTHONUTF8": "1", "COLUMNS": "120"}


def test_questions_in_answers_out(url: str, answerer: ScriptedAnswerer) -> None:
    answerer.script = [("Héllo", " "), ("🎉\nbye",)]
    run = pipe(url, questions="one\n\n  zwei ü \n")
    assert (run.returncode, run.stdout, run.stderr) == (0, "Héllo 🎉\nbye\n" * 2, "")
    assert answerer.next_asked().messages == [{"role": "user", "content": "one"}]
    # The conversation goes on.
    assert answerer.next_asked().messages == [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "Héllo 🎉\nbye"},
        {"role": "user", "content": "zwei ü"},
    ]


def test_options_and_commands(url: str, answerer: ScriptedAnswerer) -> None:
    answerer.views = [
        BackView("[attic]", "tiny-1m", "drafting", 1.25, 40, 31),
        BackView("b", "m", "silent", None, 0, 0),
    ]
    options = ["--system", "Be brief.", "--temperature", "0.25", "--seed", "7", "--max-tokens", "50"]
    run = pipe(f"{url}/v1/", *options, questions=":stats\none\n:NEW\ntwo\n:stats\n:help\n:quit\nnever\n")
    assert (run.returncode, run.stdout) == (0, "Hello, world!\n" * 2)
    for question in ("one", "two"):
        answer = answerer.next_asked()
        assert answer.messages == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": question}]
        asked = answer.question
        assert (asked.sampling.temperature, asked.sampling.seed, asked.max_tokens) == (0.25, 7, 50)
    assert answerer.asked.empty()
    told = re.sub(" +", " ", run.stderr).replace(" \n", "\n")
    for expected in (
        "no answer yet\n",
        "[attic] tiny-1m drafting 1.2 ms 40 31\n",
        "b m silent - 0 0\n",
        "a new conversation\n",
        "answers 1 2\n",
        "prompt read 7 tokens, 14.0 tokens/s 14 tokens, 14.0 tokens/s\n",
        "generated 6 tokens, 3.0 tokens/s 12 tokens, 3.0 tokens/s\n",
        "guesses 3 of 5 guesses accepted (60%) 6 of 10 guesses accepted (60%)\n",
        ":new forget the conversation\n",
    ):
        assert expected in told, (expected, told)


def test_an_address_without_a_scheme(url: str, answerer: ScriptedAnswerer) -> None:
    assert pipe(url.removeprefix("http://"), questions="one").stdout == "Hello, world!\n"


def test_a_proxy_for_the_web_is_not_for_the_lead(
    url: str, answerer: ScriptedAnswerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENVIRONMENT, "http_proxy", "http://127.0.0.1:1")
    assert pipe(url, questions="one").stdout == "Hello, world!\n"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def test_no_lead() -> None:
    for questions in ("", "one\n"):
        run = pipe(f"http://127.0.0.1:{free_port()}", questions=questions)
        assert (run.returncode, run.stdout) == (1, "")
        assert run.stderr.startswith("chat.py: no lead at http://127.0.0.1:") and run.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("question", "fault", "message"),
    [
        ("one", ContextError("the prompt has 5000 tokens"), "the prompt has 5000 tokens"),
        (":nonsense", None, "no command :nonsense: :help lists them"),
    ],
)
def test_errors_end_the_pipe(
    url: str, answerer: ScriptedAnswerer, question: str, fault: Exception | None, message: str
) -> None:
    answerer.refusal = fault
    run = pipe(url, questions=f"{question}\ntwo\n")
    assert (run.returncode, run.stdout, run.stderr) == (1, "", f"chat.py: {message}\n")


def test_an_error_in_the_middle_of_an_answer(url: str, answerer: ScriptedAnswerer) -> None:
    answerer.script = [("Hel",), DuoError("the engine lost its context")]
    run = pipe(url, questions="one\ntwo\n")
    assert (run.returncode, run.stdout) == (1, "Hel\n")
    assert run.stderr == "chat.py: the lead ended the answer: the engine lost its context\n"


def test_wrong_arguments() -> None:
    run = pipe("--seed", "soon")
    assert (run.returncode, run.stdout) == (2, "") and "--seed" in run.stderr
    run = pipe("--help")
    assert run.returncode == 0 and ":stats" in run.stdout and chat.DEFAULT_URL in run.stdout


def test_it_waits_for_a_lead_that_is_loading(url: str, answerer: ScriptedAnswerer) -> None:
    answerer.ready = False
    command = [sys.executable, str(CHAT), url]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == f"the lead at {url} is loading its model, waiting for it\n"
        answerer.ready = True
        assert process.communicate("one\n", timeout=PATIENCE) == ("Hello, world!\n", "")
    assert process.returncode == 0


def test_a_reader_that_goes_away(url: str, answerer: ScriptedAnswerer) -> None:
    gate = Gate()
    answerer.script = [("Hel",), gate, ("lo",)]
    command = [sys.executable, str(CHAT), url]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write(b"one\n")
        process.stdin.flush()
        assert process.stdout.read(3) == b"Hel"
        process.stdout.close()
        gate.open()
        assert process.stderr.read() == b""
        assert process.wait(PATIENCE) == 1


@pytest.fixture
def broken_lead() -> Iterator[Callable[[bytes], str]]:
    """A lead whose every answer is these bytes of a longer stream, and then a closed connection."""
    sent = b""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.respond(b"{}", "Content-Length: 2")

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.respond(sent, "Transfer-Encoding: chunked")

        def respond(self, body: bytes, header: str) -> None:
            self.wfile.write(f"HTTP/1.1 200 OK\r\nConnection: close\r\n{header}\r\n\r\n".encode() + body)
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    def start(body: bytes) -> str:
        nonlocal sent
        sent = body
        return f"http://127.0.0.1:{server.server_address[1]}"

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield start
    server.shutdown()
    thread.join()
    server.server_close()


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


FIRST = b"data: " + json.dumps({"choices": [{"delta": {"content": "Hel"}, "finish_reason": None}]}).encode() + b"\n\n"


@pytest.mark.parametrize(
    "body",
    [
        chunked(FIRST),
        chunked(FIRST) + b"40\r\ndata: {",
        chunked(FIRST) + chunked(b"data: {") + b"0\r\n\r\n",
        chunked(FIRST) + b"0\r\n\r\n",
        chunked(FIRST) + b"nonsense",
    ],
)
def test_the_connection_breaks_in_the_middle(broken_lead: Callable[[bytes], str], body: bytes) -> None:
    run = pipe(broken_lead(body), questions="one\ntwo\n")
    assert (run.returncode, run.stdout) == (1, "Hel\n")
    assert run.stderr == "chat.py: the connection to the lead broke in the middle of the answer\n"


def test_something_else_is_at_the_address(broken_lead: Callable[[bytes], str]) -> None:
    run = pipe(broken_lead(b""), questions=":stats\n")
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.endswith(" is not a lead\n")


# -- On a terminal -------------------------------------------------------------------------------------------------


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
    assert here.expect(SUMMARY_LINE) == "one\nHello,\nwor[2Jld\n"
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
    answerer.script = [("Once upon",), Gate()]
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
