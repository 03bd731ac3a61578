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
from rich.console import Console as Rich

import chat
from bench.harness import terminal as screens
from duo.errors import ContextError, DuoError
from duo.program.tls_files import Files
from lead.api import BackView, Piece
from lead.http.app import create_app
from lead.http.edge.auth import guarded
from lead.security import certs
from tests.support.http import PATIENCE, AnswerGate, ScriptedAnswerer, served, serving
from tests.support.locked import locked

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


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the chat keeps its history: not in the home of whoever runs the tests."""
    monkeypatch.setitem(ENVIRONMENT, "XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


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
    assert (run.returncode, run.stdout) == (2, "") and "--seed: 'soon' is not a whole number" in run.stderr
    run = pipe("--temperature", "-1")
    assert run.returncode == 2 and "--temperature: '-1' is not a number of at least 0" in run.stderr
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
    gate = AnswerGate()
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


def test_what_does_not_speak_http() -> None:
    """Such as the lead's port for backs, which closes the connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def hang_up() -> None:
            with suppress(OSError):
                while True:
                    listener.accept()[0].close()

        Thread(target=hang_up, daemon=True).start()
        run = pipe(url)
        listener.shutdown(socket.SHUT_RDWR)
    what = f"what listens at {url} broke the connection"
    assert run.stderr == f"chat.py: {what}: name the lead's port for clients (chat.py URL), or try again\n"
    assert run.returncode == 1


def test_a_lead_that_is_not_known_by_that_name(answerer: ScriptedAnswerer) -> None:
    app = guarded(create_app(answerer), [], 1 << 20, names=[])
    with served(app) as url:
        run = pipe(url.replace("127.0.0.1", "127.1"))  # short for the same address, but not one to the lead
    assert run.returncode == 1 and "--allowed-host" in run.stderr and run.stderr.count("\n") == 1


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


# -- Markdown as it comes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "finished"),
    [
        ("", ""),
        ("one line\n", ""),
        ("one\n\n", ""),
        ("one\n\nt", ""),
        ("one\n\ntwo\n", "one\n\n"),
        ("one\n\ntwo\n\nthree\n", "one\n\ntwo\n\n"),
        ("```\na\n\nb\n", ""),
        ("```\na\n\nb\n```\n\nc\n", "```\na\n\nb\n```\n\n"),
        ("````\n```\n\nb\n", ""),
        ("~~~\n```\n\nb\n~~~\n\nc\n", "~~~\n```\n\nb\n~~~\n\n"),
        ("1. a\n\n2. b\n", ""),
        ("- a\n\n  more of a\n", ""),
        ("- a\n\n- b\n\nc\n", "- a\n\n- b\n\n"),
    ],
)
def test_blocks_that_nothing_can_change_any_more(text: str, finished: str) -> None:
    assert text[: chat.finished_blocks(text)] == finished


def test_blocks_make_the_same_page_as_the_whole() -> None:
    """Shown block by block, character by character, a long answer is what it is when shown at once."""
    block = "# Title\n\nSome *words* and `code`.\n\n- one\n\n- two\n\n```python\nx = 1\n\ny = 2\n```\n\n"
    text = block * 5 + "The end"

    def shown(*parts: str) -> list[str]:
        out = io.StringIO()
        here = Rich(file=out, width=60, height=10, force_terminal=False)
        screen = chat.Rendered(here)
        for part in parts:
            screen.write(part)
        screen.end()
        return [line.rstrip() for line in out.getvalue().splitlines() if line.strip()]

    whole = shown(text)
    assert whole.count("x = 1") + whole.count(" x = 1") == 5
    assert shown(*text) == whole


def test_markdown_on_a_terminal(url: str, answerer: ScriptedAnswerer, state: Path) -> None:
    """What grows is drawn in place, even if longer than the screen; escapes and hidden links do not get through."""
    gate = AnswerGate()
    hostile = "&#27;[2J \x1b]0;title\x07 [here](http://evil.example/x)"
    answerer.script = [("Some **bold** wor",), gate, (f"ds.\n\n{hostile}\n\n" + "- item\n" * 40 + "\n`the end`",)]
    with screens.Terminal([str(CHAT), url], {"XDG_STATE_HOME": str(state)}, columns=80, lines=12) as here:
        written = bytearray()

        def until(condition: Callable[[str], bool]) -> str:
            while not condition(here.text()):
                written.extend(here.read())
            return here.text()

        until(lambda text: text.rstrip().endswith("\n>"))
        here.type("one\n")
        until(lambda text: "Some bold wor" in text)
        assert here.screen.buffer[2][5].bold
        gate.open()
        text = until(lambda text: SUMMARY_LINE in text and text.rstrip().endswith("\n>"))
        assert text.count("item") >= 5 and "the end" in text and "**" not in text
    assert b"\x1b]" not in written and b"\x1b[2J" not in written
    assert b"http://evil.example/x" in written


# -- A key, and TLS ------------------------------------------------------------------------------------------------


def test_a_lead_that_wants_a_key(answerer: ScriptedAnswerer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(ENVIRONMENT, "DUO_API_KEY", raising=False)
    with locked(answerer, "right") as url:
        run = pipe(url, questions="one\n")
        assert (run.returncode, run.stdout) == (1, "")
        assert run.stderr == (
            f"chat.py: the lead at {url} wants a key: give its own with --api-key KEY or in DUO_API_KEY\n"
        )
        run = pipe(url, "--api-key", "wrong", questions="one\n")
        assert run.returncode == 1 and f"the lead at {url} does not take this key: " in run.stderr
        assert pipe(url, "--api-key", "right", questions="one\n").stdout == "Hello, world!\n"
        monkeypatch.setitem(ENVIRONMENT, "DUO_API_KEY", "right")
        assert pipe(url, questions="one\n").stdout == "Hello, world!\n"
    run = pipe(url, "--api-key", "schlüssel")
    assert run.returncode == 2 and "a key is printable ASCII" in run.stderr


def test_tls(answerer: ScriptedAnswerer, tmp_path: Path) -> None:
    """A lead with a certificate of a private authority is trusted by who names that authority, and by nobody else."""
    assert certs.main([str(tmp_path), "--host", "127.0.0.1"]) == 0
    ca = tmp_path / "ca.pem"
    with locked(answerer, tls=Files(str(tmp_path / "lead.pem"), str(tmp_path / "lead-key.pem"), str(ca))) as url:
        assert pipe(url, "--tls-ca", str(ca), questions="one\n").stdout == "Hello, world!\n"
        run = pipe(url, questions="one\n")
        assert (run.returncode, run.stdout, run.stderr.count("\n")) == (1, "", 1)
        assert run.stderr.startswith(f"chat.py: no trusted connection to {url}: ") and "--tls-ca FILE" in run.stderr
        plain = url.replace("https", "http")
        run = pipe(plain, questions="one\n")
        assert (run.returncode, run.stderr) == (1, f"chat.py: what listens at {plain} speaks TLS: try {url}\n")
    run = pipe("--tls-ca", str(tmp_path / "nothing"))
    assert run.returncode == 2 and "there is no file" in run.stderr
