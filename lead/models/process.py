"""The process of one model, as the parent sees it: started, listened to, ended."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

from lead.models.settings import ModelSettings
from lead.program import Ready

STOP_SECONDS = 10.0
"""For a process that was asked to stop. Then it is killed."""
LAST_WORDS_SECONDS = 2.0
EXIT_SECONDS = 1.0
"""How often an end is looked for that asyncio does not tell of, because a process of its own holds a pipe open."""
SPARE_CONNECTIONS = 16
"""Connections to a model beyond those of clients: to look at its state."""
KEEP_ALIVE_SECONDS = 75
"""Longer than the parent keeps an idle connection, so that none ends just as it is used again."""
LINE_BYTES = 1 << 20


class LoadError(Exception):
    """A model could not be loaded. `own`: its program said so itself, and would say it again."""

    def __init__(self, reason: str, own: bool = False) -> None:
        super().__init__(reason)
        self.own = own


class Worker(Protocol):
    """What the pool does with a process."""

    key: str
    """What the HTTP port of the process asks for."""
    token: str
    """What its port for backs asks for."""

    async def load(self) -> Ready:
        """Start, and wait until it can answer. Raises LoadError."""

    async def ended(self) -> str:
        """Wait for the end of the process. Returns how it ended, for people."""

    async def stop(self) -> None:
        """End it, in whatever state it is, and wait until it is gone."""


class Process:
    """`python -m lead.models.child` for one model. Its log lines go to standard error, with its name before them."""

    def __init__(self, model: ModelSettings) -> None:
        self._model = model
        self.key, self.token = secrets.token_hex(16), secrets.token_hex(16)
        self._process: asyncio.subprocess.Process | None = None
        self._said: deque[str] = deque(maxlen=20)
        """The last lines of its log."""
        self._reading: asyncio.Task[None] | None = None

    async def load(self) -> Ready:
        model = self._model
        try:
            self._process = process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "lead.models.child", model.name,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
                env={**os.environ, **model.env}, limit=LINE_BYTES,
                start_new_session=True,  # Ctrl-C at the terminal is for the parent, which ends its models in order
            )  # fmt: skip
        except (OSError, ValueError) as error:
            raise LoadError(f"its process cannot be started: {error}") from None
        assert process.stdin and process.stdout and process.stderr
        self._reading = asyncio.ensure_future(self._pass_on(process.stderr))
        with contextlib.suppress(ConnectionError):
            process.stdin.write(
                json.dumps(vars(_settings(model.args, model.name, self.key, self.token))).encode() + b"\n"
            )
            await process.stdin.drain()
        if line := await self._report(process.stdout):
            report = json.loads(line)
            if "ready" in report:
                return Ready(**report["ready"])
            raise LoadError(str(report["error"]), own=True)
        raise LoadError(await self.ended())

    async def _report(self, reports: asyncio.StreamReader) -> bytes:
        """What the process reports first; empty if it ends without a report."""
        reading, ending = asyncio.ensure_future(reports.readline()), asyncio.ensure_future(self._exit())
        try:
            await asyncio.wait((reading, ending), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():  # it may have said something just before its end
                await asyncio.wait((reading,), timeout=LAST_WORDS_SECONDS)
            return reading.result() if reading.done() else b""
        finally:
            reading.cancel()
            ending.cancel()
            await asyncio.gather(reading, ending, return_exceptions=True)

    async def _exit(self) -> int:
        """The exit code, once there is one. Pipes may be open then: `wait` of asyncio would wait for them too."""
        process = self._process
        assert process is not None
        while process.returncode is None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), EXIT_SECONDS)
        return process.returncode

    async def ended(self) -> str:
        code = await self._exit()
        if self._reading is not None:  # what it said last; a process of its own may keep the log open
            await asyncio.wait([self._reading], timeout=LAST_WORDS_SECONDS)
        if code < 0:
            name = signal.Signals(-code).name if -code in list(signal.Signals) else f"signal {-code}"
            likely = ", perhaps because memory was short" if -code == signal.SIGKILL else ""
            return f"its process was ended by {name}{likely}"
        said = f": {self._said[-1]}" if code and self._said else ""
        return f"its process ended with exit code {code}{said}"

    async def stop(self) -> None:
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGTERM)  # `terminate` may take the exit code from asyncio
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._exit(), STOP_SECONDS)
        # With it go the processes that it has started: its session is its own.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await self._exit()
        assert process.stdout is not None and self._reading is not None
        reading = [self._reading, asyncio.ensure_future(process.stdout.read())]
        _, open_ones = await asyncio.wait(reading, timeout=LAST_WORDS_SECONDS)  # until its pipes are closed
        for one in open_ones:
            one.cancel()

    async def _pass_on(self, log: asyncio.StreamReader) -> None:
        while True:
            try:
                line = (await log.readline()).decode("utf-8", "replace").rstrip()
            except ValueError:  # longer than LINE_BYTES
                continue
            if not line and log.at_eof():
                return
            self._said.append(line[:200])
            print(f"[{self._model.name}] {line}", file=sys.stderr, flush=True)


def _settings(args: argparse.Namespace, name: str, key: str, token: str) -> argparse.Namespace:
    """The settings of a model's own lead: on loopback, on any ports, for its parent alone."""
    connections = args.max_connections + SPARE_CONNECTIONS
    own: Mapping[str, Any] = {
        "host": "127.0.0.1", "port": 0, "back_port": 0, "announce": False, "alias": name,
        "api_key": [key], "api_key_file": "", "token": [token], "token_file": "", "new_secrets": False,
        "insecure": False,
        "tls_cert": "", "tls_key": "", "tls_ca": "", "cors_origin": [], "allowed_host": [], "metrics": True,
        "models": None, "config": None,
        "max_connections": connections, "max_connections_per_address": connections,
        "keep_alive": KEEP_ALIVE_SECONDS, "print_mode": "none",
    }  # fmt: skip
    return argparse.Namespace(**{**vars(args), **own})
