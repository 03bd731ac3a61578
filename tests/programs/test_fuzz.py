"""Bytes on the wire: whatever comes to the ports of a running lead, answers go on and are the same."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.harness.processes import LeadProcess, Reply, wait_for
from bench.load.gaps import fillable
from duo.engines import EngineOptions, load
from duo.wire.back_side import BackSide
from duo.wire.messages import METHOD, Identity
from lead.http.endpoints import ENDPOINTS
from tests.support.wire import of_back

pytestmark = pytest.mark.slow

QUESTION = "What does shutil.copytree do?"
GREEDY = {"temperature": 0, "max_tokens": 40}
CONNECTIONS = 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def lead(folder: Path) -> Iterator[LeadProcess]:
    """With marks for code in the middle, and with files of slots, so that every endpoint is open."""
    model = str(fillable("target", "transformers", folder))
    with LeadProcess("-m", model, "--slot-save-path", str(folder), "--threads", "1", "--print-mode", "none") as lead:
        yield lead.ready()


@pytest.fixture(scope="module")
def text(lead: LeadProcess) -> str:
    return lead.ask(QUESTION, **GREEDY).text


@pytest.fixture(scope="module")
def hello(lead: LeadProcess, folder: Path) -> bytes:
    draft = load(str(fillable("draft", "transformers", folder)), "transformers", EngineOptions(threads=1))
    vocabulary = draft.vocabulary
    return BackSide(Identity("fuzz", "m", vocabulary.fingerprint, vocabulary.size), 0.0).hello([])


def say(lead: LeadProcess, messages: Sequence[bytes]) -> None:
    """As a back: all of the messages, and no more; then listen until the lead ends the stream, as it must."""
    with grpc.insecure_channel(f"127.0.0.1:{lead.back_port}") as channel:
        call = channel.stream_stream(METHOD)(iter(messages), timeout=60)  # type: ignore[arg-type,var-annotated]
        try:
            for _ in call:
                pass
        except grpc.RpcError:
            assert call.code() is not grpc.StatusCode.DEADLINE_EXCEEDED, "the lead does not end the stream"


def slots(lead: LeadProcess) -> list[dict[str, object]]:
    views: list[dict[str, object]] = requests.get(f"{lead.url}/slots", timeout=10).json()
    return views


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.booleans(), st.lists(st.binary(max_size=80) | of_back.map(lambda m: m.SerializeToString()), max_size=6))
def test_arbitrary_streams_change_no_answer(
    lead: LeadProcess, text: str, hello: bytes, greet: bool, messages: list[bytes]
) -> None:
    reply = Reply()
    answer = lead.stream(QUESTION, reply, **GREEDY)
    next(answer)
    say(lead, [hello, *messages] if greet else messages)
    for _ in answer:
        pass
    assert reply.text == text


def test_who_says_hello_and_goes_is_let_go(lead: LeadProcess, hello: bytes) -> None:
    """Whether the welcome is on its way by then or not."""
    for _ in range(30):
        say(lead, [hello])


heads = st.sampled_from(
    [
        f"{endpoint.method.upper()} {re.sub('{[^}]*}', '0', path)}".encode()
        for endpoint in ENDPOINTS
        for path in endpoint.paths
    ]
    + [f"POST /slots/0?action={action}".encode() for action in ("save", "restore", "erase", "")]
)
"""The beginnings of requests to every endpoint."""


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.booleans(),
    st.binary(max_size=300)
    | st.builds(lambda head, b: b"%s HTTP/1.1\r\n%s" % (head, b), heads, st.binary(max_size=60))
    | st.builds(
        lambda head, b: b"%s HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (head, len(b), b),
        heads,
        st.binary(max_size=60),
    ),
)
def test_arbitrary_bytes_on_both_ports_change_no_answer(lead: LeadProcess, text: str, http: bool, data: bytes) -> None:
    with socket.create_connection(("127.0.0.1", lead.port if http else lead.back_port), timeout=10) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
    assert lead.process.poll() is None
    assert requests.get(f"{lead.url}/health", timeout=10).status_code == 200


values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 1 << 40) | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
files = st.lists(st.fixed_dictionaries({"text": st.text(max_size=30)}, optional={"filename": values}), max_size=3)
gaps = st.fixed_dictionaries(
    {"n_predict": st.sampled_from([0, 1, 3])},
    optional={
        "input_prefix": st.text(max_size=30) | values,
        "input_suffix": st.text(max_size=30) | values,
        "input_extra": files | values,
        "prompt": st.text(max_size=30) | values,
        "stream": st.booleans() | values,
        "response_fields": st.lists(st.sampled_from(["content", "timings/prompt_n", "a/b/c"])) | values,
        "stop": values,
    },
)
names = st.sampled_from(["a.slot", "../a.slot", ".a", "a/b", "", "\x00", "con", "x" * 300]) | values


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(gaps, st.sampled_from(["save", "restore", "erase", "burn"]), st.sampled_from(["0", "1", "99", "-1", "x"]), names)
def test_arbitrary_gaps_and_slots_change_no_answer(
    lead: LeadProcess, folder: Path, text: str, gap: dict[str, Any], action: str, slot: str, name: object
) -> None:
    filled = requests.post(f"{lead.url}/infill", json=gap, timeout=60)
    assert filled.status_code in (200, 400), filled.text
    moved = requests.post(f"{lead.url}/slots/{slot}?action={action}", json={"filename": name}, timeout=60)
    assert moved.status_code in (200, 400, 503), moved.text
    assert not [path for path in folder.parent.iterdir() if path != folder and path.suffix == ".slot"]


def test_after_all_that_the_answer_is_the_same(lead: LeadProcess, text: str) -> None:
    assert lead.ask(QUESTION, **GREEDY).text == text
    assert lead.backs() == []
    assert "Traceback" not in lead.log


def test_floods_of_connections_and_who_says_half_of_something(lead: LeadProcess, text: str) -> None:
    """Hundreds of connections to both ports that stay open and say nothing, or begin a request and stop there."""
    process = psutil.Process(lead.process.pid)
    threads = process.num_threads()
    with contextlib.ExitStack() as stack:
        for number in range(CONNECTIONS):
            port = (lead.port, lead.back_port)[number % 2]
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            if number % 3:
                connection.sendall(
                    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{"[
                        : 20 * (number % 3)
                    ]
                )
        assert lead.ask(QUESTION, **GREEDY).text == text
        assert process.num_threads() <= threads + 2, "a connection must not cost a thread"
    files = process.num_fds
    wait_for(lambda: files() < CONNECTIONS // 2, "the connections to be gone")
    assert lead.ask(QUESTION, **GREEDY).text == text


def test_a_client_that_reads_slowly_holds_up_nobody(lead: LeadProcess, text: str) -> None:
    """Its answer may wait; others' do not."""
    with socket.create_connection(("127.0.0.1", lead.port), timeout=60) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        body = b'{"messages":[{"role":"user","content":"hi"}],"stream":true,"ignore_eos":true,"max_tokens":2000}'
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
        slow.sendall(head + body)

        assert slow.recv(64)
        # It reads no more, and what the lead has for it piles up.
        assert lead.ask(QUESTION, **GREEDY).text == text
    wait_for(lambda: "answering" not in {slot["state"] for slot in slots(lead)}, "its slot to be free")
