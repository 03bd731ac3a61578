"""`python -m bench soak`: ten thousand requests, a thousand backs that come and go, and a lead that does not grow.

Its resident memory and its threads are noted every second. At the end they are compared with those after the first
minute, when everything is set up.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import grpc
import psutil
import requests
from rich.console import Console

from bench.harness.models import shipped
from bench.harness.processes import LeadProcess, Reply
from duo.engines import EngineOptions, load
from duo.program.values import positive
from duo.wire.back_side import BackSide
from duo.wire.messages import METHOD, Identity
from lead.match import prompts

WARM_SECONDS = 60.0
"""After this time the lead should not grow any more."""
MAX_GROWTH = 1.05
"""Its size at the end over its size after `WARM_SECONDS`, at most."""
CLIENTS = 4
LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Look:
    """The lead's size at a moment. resident: bytes. files: open files."""

    at: float
    resident: int
    threads: int
    files: int


class Observer:
    """Looks at a process every second, in a thread of its own."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._over = threading.Event()
        self._began = time.monotonic()
        self.looks: list[Look] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            self.looks.append(self.look())

    def look(self) -> Look:
        process = self._process
        memory = process.memory_info().rss
        return Look(time.monotonic() - self._began, memory, process.num_threads(), process.num_fds())

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


class Load:
    """Several clients with requests of every kind, and backs that join and leave."""

    def __init__(self, lead: LeadProcess, requests_: int, connections: int, identity: Identity, seed: int) -> None:
        self._lead, self._identity = lead, identity
        self._requests, self._connections = count(), count()
        self._max_requests, self._max_connections = requests_, connections
        self._texts = [conversation.turns[0] for conversation in prompts.shipped(20)]
        self.statuses: Counter[str] = Counter()
        self._threads = [
            *(threading.Thread(target=self._ask_all, args=(random.Random(seed + i),)) for i in range(CLIENTS)),
            threading.Thread(target=self._join_all, args=(random.Random(seed - 1),)),
        ]

    def run(self) -> None:
        for thread in self._threads:
            thread.start()
        for thread in self._threads:
            thread.join()

    def _ask_all(self, rng: random.Random) -> None:
        session = requests.Session()
        while next(self._requests) < self._max_requests:
            self.statuses[f"HTTP {self._ask(session, rng)}"] += 1

    def _ask(self, session: requests.Session, rng: random.Random) -> int | str:
        url, text = self._lead.url, rng.choice(self._texts)
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": rng.choice([1, 2, 8]), "seed": 1}
        kind = rng.random()
        if kind < 0.4:
            return session.post(f"{url}/v1/chat/completions", json=body, timeout=60).status_code
        if kind < 0.6:
            for _ in LeadProcess.streamed(url, {**body, "stream": True}, reply := Reply()):
                pass
            return 200 if reply.finish_reason else "broken stream"
        if kind < 0.7:
            answer = session.post(f"{url}/v1/chat/completions", json={**body, "stream": True}, stream=True, timeout=60)
            answer.close()  # the client hangs up
            return answer.status_code
        if kind < 0.8:
            path = rng.choice(["/health", "/v1/models", "/backs", "/nowhere"])
            return session.get(url + path, timeout=60).status_code
        if kind < 0.9:
            return session.post(f"{url}/v1/chat/completions", data=os.urandom(50), timeout=60).status_code
        return session.post(f"{url}/v1/chat/completions", json={**body, "temperature": "hot"}, timeout=60).status_code

    def _join_all(self, rng: random.Random) -> None:
        while next(self._connections) < self._max_connections:
            self.statuses[f"back {self._join(rng)}"] += 1

    def _join(self, rng: random.Random) -> str:
        """Acts as a back for a moment: a proper one that leaves, or one that sends nonsense."""
        side = BackSide(self._identity, time.perf_counter())
        proper = rng.random() < 0.7
        words = iter([side.hello([])] if proper else [os.urandom(rng.choice([1, 30, 3000]))])
        with grpc.insecure_channel(f"127.0.0.1:{self._lead.back_port}") as channel:
            call: Any = channel.stream_stream(METHOD)(words, timeout=20)  # type: ignore[arg-type]
            try:
                first = next(iter(call))
            except grpc.RpcError as error:
                return f"{error.code().name}"
            finally:
                call.cancel()
        return ("welcome" if proper else "refused") if first else "nothing"


def add_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("--requests", type=positive, default=10_000, help="how many in all")
    p.add_argument("--connections", type=positive, default=1_000, help="backs that come and go")
    p.add_argument("--engine", choices=("transformers", "llamacpp"), default="transformers", help="of the shipped pair")
    p.add_argument("-o", "--output", type=Path, metavar="FILE", help="also write what was seen each second, as JSON")


def main(args: argparse.Namespace) -> int:
    console = Console()
    target = load(shipped("target", args.engine), args.engine, EngineOptions(threads=1))
    identity = Identity("soak", "draft", target.vocabulary.fingerprint, target.vocabulary.size)
    target.close()
    with LeadProcess("--engine", args.engine, "--threads", "1", "--print-mode", "none") as lead:
        lead.ready()
        observer = Observer(lead.process.pid)
        work = Load(lead, args.requests, args.connections, identity, seed=1)
        work.run()
        observer.stop()
        last = observer.look()
        for status, number in sorted(work.statuses.items()):
            console.print(f"{number:7} {status}")
        alive = lead.process.poll() is None
    warm = next((look for look in observer.looks if look.at >= WARM_SECONDS), observer.looks[len(observer.looks) // 2])
    if args.output:
        args.output.write_text(json.dumps([asdict(look) for look in (*observer.looks, last)]))
    for name, then, now in (
        ("resident MiB", warm.resident >> 20, last.resident >> 20),
        ("threads", warm.threads, last.threads),
        ("open files", warm.files, last.files),
    ):
        console.print(f"{name}: {then} after {warm.at:.0f} s, {now} after {last.at:.0f} s")
    errors = sum(n for status, n in work.statuses.items() if status.startswith("HTTP 5"))
    grown = last.resident > MAX_GROWTH * warm.resident or last.threads > MAX_GROWTH * warm.threads
    console.print(f"{errors} server errors, {'grown' if grown else 'not grown'}")
    return 1 if grown or errors or not alive else 0
