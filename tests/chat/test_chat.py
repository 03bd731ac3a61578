"""chat.py as the program that it is: behind pipes, and on a terminal with a person's keys.

The lead at the other end is the real HTTP side with scripted answers (see http_server), or a socket that misbehaves.
"""

from __future__ import annotations

import ast
import json
import re
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
from duo.program.tls_files import Files
from lead.api import BackView
from lead.http.app import create_app
from lead.http.edge.auth import guarded
from lead.security import certs
from tests.support.chat import CHAT, ENVIRONMENT, free_port, pipe
from tests.support.http import PATIENCE, AnswerGate, ScriptedAnswerer, served
from tests.support.locked import locked


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


def test_thinking_is_not_the_answer(url: str, answerer: ScriptedAnswerer) -> None:
    answerer.script = [("<think>", "Hm.\n"), ("So", "</think>"), ("Four.",)]
    run = pipe(url, questions="one\ntwo\n")
    assert (run.returncode, run.stdout, run.stderr) == (0, "Four.\n" * 2, "")
    answerer.next_asked()
    assert answerer.next_asked().messages[1] == {"role": "assistant", "content": "Four."}


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


def test_no_lead() -> None:
    for questions in ("", "one\n"):
        run = pipe(f"http://127.0.0.1:{free_port()}", questions=questions)
        assert (run.returncode, run.stdout) == (1, "")
        assert run.stderr.startswith("chat.py: no lead at http://127.0.0.1:") and run.stderr.count("\n") == 1


def test_questions_after_one_that_failed(url: str, answerer: ScriptedAnswerer) -> None:
    """They are asked, without it. The end says how many failed."""
    answerer.scripts = [[("one",)], [("Hel",), DuoError("the engine lost its context")], [("three",)]]
    run = pipe(url, questions="a\nb\n\nc\n")
    assert (run.returncode, run.stdout) == (1, "one\nHel\nthree\n")
    assert run.stderr == (
        "chat.py: question 2: the lead ended the answer: the engine lost its context\n"
        "chat.py: 1 of 3 questions failed\n"
    )
    answers = [answerer.next_asked() for _ in range(3)]
    assert [turn["content"] for turn in answers[2].messages] == ["a", "one", "c"]
    answerer.refusal = ContextError("the prompt has 5000 tokens")
    run = pipe(url, questions="a\nb\n:stats\n")
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.startswith("chat.py: question 1: the prompt has 5000 tokens\nchat.py: question 2: ")
    assert run.stderr.endswith("chat.py: 2 of 2 questions failed\n")


def test_a_command_that_fails_ends_the_pipe(url: str, answerer: ScriptedAnswerer) -> None:
    """The questions after it may need it."""
    run = pipe(url, questions=":nonsense\ntwo\n")
    assert (run.returncode, run.stdout, run.stderr) == (1, "", "chat.py: no command :nonsense: :help lists them\n")


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


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs a device that is always full")
def test_answers_that_cannot_be_written(url: str, answerer: ScriptedAnswerer) -> None:
    with Path("/dev/full").open("w") as full:
        run = subprocess.run(
            [sys.executable, str(CHAT), url], input="one\n", stdout=full, stderr=subprocess.PIPE, text=True,
            env=ENVIRONMENT, timeout=PATIENCE, check=False,
        )  # fmt: skip
    assert (run.returncode, run.stderr) == (1, "chat.py: cannot write answers: no space left on device\n")


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
    assert (run.returncode, run.stdout) == (1, "Hel\n" * 2)
    broke = "the connection to the lead broke in the middle of the answer"
    assert run.stderr == (
        f"chat.py: question 1: {broke}\nchat.py: question 2: {broke}\nchat.py: 2 of 2 questions failed\n"
    )


NO_EVENTS = (
    "5", "[]", "{}", '{"error": "no"}', '{"choices": [{}]}', '{"choices": [{"delta": "Hel"}]}',
    '{"choices": [], "timings": 5}', '{"choices": [], "timings": {"predicted_n": "six"}}',
)  # fmt: skip


@pytest.mark.parametrize("event", NO_EVENTS)
def test_events_that_no_lead_sends(broken_lead: Callable[[bytes], str], event: str) -> None:
    stream = chunked(f"data: {event}\n\ndata: [DONE]\n\n".encode()) + b"0\r\n\r\n"
    url = broken_lead(stream)
    run = pipe(url, questions="one\n")
    assert (run.returncode, run.stdout.strip()) == (1, "")
    assert run.stderr.startswith(f"chat.py: question 1: what answers at {url} is not a lead, or one of another version")


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
    assert run.stderr == f"chat.py: {what}: name the lead's port for clients (chat.py HOST:PORT), or try again\n"
    assert run.returncode == 1


def test_a_lead_that_is_not_known_by_that_name(answerer: ScriptedAnswerer) -> None:
    app = guarded(create_app(answerer), [], 1 << 20, names=[])
    with served(app) as url:
        run = pipe(url.replace("127.0.0.1", "127.1"))  # short for the same address, but not one to the lead
    assert run.returncode == 1 and "--allowed-host" in run.stderr and run.stderr.count("\n") == 1


# -- A key, and TLS ------------------------------------------------------------------------------------------------


def test_a_lead_that_wants_a_key(answerer: ScriptedAnswerer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(ENVIRONMENT, "DUO_API_KEY", raising=False)
    with locked(answerer, "right") as url:
        run = pipe(url, questions="one\n")
        assert (run.returncode, run.stdout) == (1, "")
        assert run.stderr == (
            f"chat.py: the lead at {url} wants a key: give its own with --api-key KEY, in DUO_API_KEY, or with :key\n"
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
