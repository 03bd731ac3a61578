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
        async for line in process.stdout:
            report = json.loads(line)
            if "ready" in report:
                return Ready(**report["ready"])
            raise LoadError(str(report["error"]), own=True)
        raise LoadError(await self.ended())

    async def ended(self) -> str:
        assert self._process is not None
        code = await self._process.wait()
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
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

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
