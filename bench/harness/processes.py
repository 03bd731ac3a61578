"""Leads and backs as real processes, for the demonstration, the benchmarks and the tests."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

import requests

import bench

ROOT = Path(bench.__path__[0]).resolve().parent
PATIENCE = 120.0
"""Seconds to wait for anything. Generous, because machines may be slow and busy."""


def free_port() -> int:
    """A loopback TCP port that is free at the moment."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def halves() -> tuple[list[int], list[int]]:
    """The machine's cores as two devices: the first half for the lead, the second half for the backs.

    Both are empty on a machine with one core, and on systems that do not list their cores.
    """
    cpus = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
    middle = len(cpus) // 2
    return (cpus[:middle], cpus[middle:]) if middle else ([], [])


@contextlib.contextmanager
def pinned(cpus: Collection[int]) -> Iterator[None]:
    """Runs this thread, and the threads and processes that it starts, on these cores. Only Linux can do that."""
    before = os.sched_getaffinity(0) if cpus and sys.platform == "linux" else set()
    if before:
        os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        if before:
            os.sched_setaffinity(0, before)


def python_path() -> str:
    """A PYTHONPATH with which a process imports this checkout."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))


def wait_for(condition: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    """Waits until the condition holds. Raises TimeoutError."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {patience:.0f} s in vain: {what}")
        time.sleep(0.02)


class Program:
    """A program of ours in a process of its own. `log` has its output.

    cpus: the cores that it may use, on Linux; empty: all. under: a command that runs the program, such as
    ip netns exec.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        cpus: Collection[int] = (),
        under: Sequence[str] = (),
    ) -> None:
        self.command = [*under, sys.executable, "-u", "-m", module, *arguments]
        self._out: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `close`
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": python_path(), "OMP_WAIT_POLICY": "PASSIVE", **(environment or {})},
        )
        if cpus and sys.platform == "linux":
            os.sched_setaffinity(self.process.pid, cpus)

    @property
    def log(self) -> str:
        """Its output so far."""
        size = os.fstat(self._out.fileno()).st_size
        return os.pread(self._out.fileno(), size, 0).decode("utf-8", "replace")

    def says(self, words: str, times: int = 1) -> None:
        """Waits until the words are in its log. Raises TimeoutError, or RuntimeError if it ends without them."""

        def said() -> bool:
            if self.log.count(words) >= times:
                return True
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.command} ended with {self.process.returncode}:\n{self.log[-3000:]}")
            return False

        wait_for(said, f"{words!r} in the log of {self.command}")

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """Kills it (kill -9), and waits until it is gone."""
        self.process.kill()
        self.process.wait()

    def stop(self, patience: float = PATIENCE) -> int:
        """Asks it to stop, and returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        return self.process.wait(patience)

    def close(self) -> None:
        try:
            self.stop(20)
        except subprocess.TimeoutExpired:
            self.kill()
        self._out.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass
class Reply:
    """A streamed chat completion, as far as it has come."""

    text: str = ""
    finish_reason: str = ""
    usage: Mapping[str, Any] = field(default_factory=dict)
    timings: Mapping[str, Any] = field(default_factory=dict)


class LeadProcess(Program):
    """`python -m lead` on the loopback address, on free ports unless they are given."""

    def __init__(self, *arguments: str, port: int = 0, back_port: int = 0, cpus: Collection[int] = ()) -> None:
        self.port = port or free_port()
        self.back_port = back_port or free_port()
        ports = ("--port", str(self.port), "--back-port", str(self.back_port))
        super().__init__("lead", *ports, *arguments, cpus=cpus)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ready(self) -> Self:
        """Waits until it can answer."""
        self.says(" for backs")
        wait_for(lambda: requests.get(f"{self.url}/health", timeout=10).status_code == 200, "the lead's health")
        return self

    def backs(self) -> list[dict[str, Any]]:
        data: list[dict[str, Any]] = requests.get(f"{self.url}/backs", timeout=10).json()["data"]
        return data

    def speedup(self) -> dict[str, Any] | None:
        """What the lead says that its backs bring."""
        found: dict[str, Any] | None = requests.get(f"{self.url}/backs", timeout=10).json()["speedup"]
        return found

    def has_backs(self, count: int) -> None:
        """Waits until the lead has this many backs that are not silent."""
        wait_for(lambda: sum(b["state"] != "silent" for b in self.backs()) == count, f"{count} backs at the lead")

    def ask(self, question: str | Sequence[Mapping[str, str]], **options: Any) -> Reply:
        """Asks, and returns the whole answer. options: fields of the request."""
        reply = Reply()
        for _ in self.stream(question, reply, **options):
            pass
        return reply

    def stream(self, question: str | Sequence[Mapping[str, str]], reply: Reply, **options: Any) -> Iterator[str]:
        """Asks, and yields the text as it comes. `reply` collects it."""
        messages = [{"role": "user", "content": question}] if isinstance(question, str) else list(question)
        body = {"messages": messages, "stream": True, "stream_options": {"include_usage": True}, **options}
        yield from self.streamed(self.url, body, reply)

    @staticmethod
    def streamed(url: str, body: Mapping[str, Any], reply: Reply) -> Generator[str, None, None]:
        """Sends a request to the lead at `url`, and yields the text as it comes. `reply` collects it.

        Raises requests.ConnectionError also for a busy lead, and RuntimeError for other refusals.
        """
        with requests.post(f"{url}/v1/chat/completions", json=body, stream=True, timeout=PATIENCE) as response:
            if response.status_code == 503:
                raise requests.ConnectionError(response.text)  # callers try again, as for a lead that is not there yet
            if response.status_code != 200:
                raise RuntimeError(f"{response.status_code}: {response.text}")
            # Read line by line: a larger chunk size would hold text back.
            for line in response.iter_lines(chunk_size=1):
                if not line.startswith(b"data: ") or line == b"data: [DONE]":
                    continue
                event = json.loads(line[6:])
                if "error" in event:
                    raise RuntimeError(event["error"]["message"])
                reply.usage = event.get("usage") or reply.usage
                reply.timings = event.get("timings") or reply.timings
                for choice in event["choices"]:
                    reply.finish_reason = choice["finish_reason"] or reply.finish_reason
                    if text := choice["delta"].get("content"):
                        reply.text += text
                        yield text


class BackProcess(Program):
    """`python -m back` for a lead on this machine, or for a `DelayProxy` before it."""

    def __init__(
        self,
        port: int,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        cpus: Collection[int] = (),
    ) -> None:
        super().__init__("back", "--lead", f"127.0.0.1:{port}", *arguments, environment=environment, cpus=cpus)

    def loaded(self) -> Self:
        """Waits until the model is loaded. Then the back looks for its lead."""
        self.says("tokens of context")
        return self

    def joined(self, times: int = 1) -> Self:
        self.says("joined the lead", times)
        return self
