"""`python -m bench chaos`: everything goes wrong at once, for minutes, and no answer is wrong.

Clients ask without a pause, in three APIs and for code in the middle, greedily and sampled, streamed and not. Some hang
up in the middle. Meanwhile backs are started, killed, stopped and resumed at random, and the lead is killed and started
again. Slots are saved to files, restored and erased. Other connections say nothing, or half of a request, or nonsense.
Every answer that completes must be what the same question gave before.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from rich.console import Console

from bench.harness.models import Runtime
from bench.harness.processes import BackProcess, LeadProcess, free_port
from bench.load import apis
from bench.load.apis import CHAT, INFILL, MESSAGES, RESPONSES, Api
from bench.load.gaps import MODELS, fillable
from duo.program.values import positive
from lead.match import prompts

MAX_BACKS = 3
"""Backs at a time."""
LEAD_LIFETIME = (12.0, 25.0)
"""The lead is killed after a random number of seconds between these."""
TOKENS = 64

VARIANTS: Sequence[tuple[Api, Mapping[str, Any]]] = (
    (CHAT, {"temperature": 0, "stream": True}),
    (CHAT, {"temperature": 0, "stream": False}),
    (CHAT, {"temperature": 0.8, "seed": 7, "stream": True}),
    (CHAT, {"temperature": 1.0, "seed": 11, "stream": False}),
    (CHAT, {"temperature": 0.8, "seed": 3, "top_p": 0.9, "presence_penalty": 0.5, "stream": True}),
    (CHAT, {"temperature": 0, "stop": ["the ", "."], "stream": True}),
    (MESSAGES, {"temperature": 0, "stream": True}),
    (MESSAGES, {"temperature": 0, "stop_sequences": ["the "], "stream": False}),
    (RESPONSES, {"temperature": 0, "stream": True}),
    (RESPONSES, {"temperature": 0, "stream": False}),
    (INFILL, {"temperature": 0, "stream": True}),
    (INFILL, {"temperature": 0.8, "seed": 5, "stream": False}),
)
SLOTS = 4
FILES = ("one.slot", "two.slot")
SLOT_STATUSES = (200, 400, 503)
"""What an action on a slot may answer. The slot may hold nothing, the file may be absent, and the slot may answer."""

INTERRUPTED = (requests.ConnectionError, requests.exceptions.ChunkedEncodingError, requests.Timeout)
"""What a client sees when the lead is killed."""


@dataclass
class Toll:
    """What happened, counted by all threads. wrong: a line for each wrong answer."""

    events: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, event: str) -> None:
        with self.lock:
            self.events[event] += 1

    def bad(self, what: str) -> None:
        with self.lock:
            self.wrong.append(what)


class Scene:
    """A lead on fixed ports, and up to `MAX_BACKS` backs. Any of them may be dead or stopped."""

    def __init__(self, engine: Runtime, toll: Toll, folder: Path) -> None:
        """`folder`: for models and the files of slots."""
        self.port, self.back_port = free_port(), free_port()
        flags = ("--engine", engine, "--threads", "1", "--parallel", str(SLOTS))
        (folder / "slots").mkdir()
        target, draft = (str(fillable(which, engine, folder)) for which in MODELS)
        # What fills a gap is hardly likelier than something else. Such near ties are the same only with --exact on.
        self._lead_flags = (*flags, "-m", target, "--slot-save-path", str(folder / "slots"), "--exact", "on")
        self._back_flags = (*flags, "-m", draft)
        self._toll = toll
        self.lead = self._new_lead()
        self.lead.ready()
        self._backs: list[BackProcess] = []
        self._asleep: set[int] = set()
        self._names = 0

    def _new_lead(self) -> LeadProcess:
        return LeadProcess(*self._lead_flags, "--print-mode", "none", port=self.port, back_port=self.back_port)

    def start_back(self, rng: random.Random) -> None:
        if len(self._backs) < MAX_BACKS:
            self._names += 1
            name = rng.choice(["same", f"back-{self._names}"])
            self._backs.append(BackProcess(self.back_port, *self._back_flags, "--name", name))
            self._toll.count("backs started")

    def kill_back(self, rng: random.Random) -> None:
        if self._backs:
            back = self._backs.pop(rng.randrange(len(self._backs)))
            self._asleep.discard(id(back))
            back.kill()
            back.close()
            self._toll.count("backs killed")

    def stop_back(self, rng: random.Random) -> None:
        if self._backs:
            back = rng.choice(self._backs)
            back.send(signal.SIGSTOP)
            self._asleep.add(id(back))
            self._toll.count("backs stopped")

    def wake_backs(self, rng: random.Random) -> None:
        for back in self._backs:
            if id(back) in self._asleep:
                back.send(signal.SIGCONT)
        self._asleep.clear()

    def kill_lead(self) -> None:
        self.lead.kill()
        self.lead.close()
        self._toll.count("leads killed")
        self.lead = self._new_lead()
        self.lead.ready()

    def nuisance(self, rng: random.Random) -> None:
        """Opens connections that say nothing, half of a request, or nonsense. Some stay open."""
        port = rng.choice([self.port, self.back_port])
        words = rng.choice([
            b"", b"GET / HT", b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 1000\r\n\r\n{", os.urandom(200),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + os.urandom(40),
        ])  # fmt: skip
        for _ in range(rng.choice([1, 1, 20])):
            with contextlib.suppress(OSError):
                connection = socket.create_connection(("127.0.0.1", port), timeout=2)
                connection.sendall(words)
                if rng.random() < 0.7:
                    connection.close()
                else:
                    connection.detach()
        self._toll.count("nuisances")

    def move_slot(self, rng: random.Random) -> None:
        """Saves, restores or erases a slot. Whatever is in it then, answers stay the same."""
        action, slot = rng.choice(["save", "save", "restore", "restore", "erase"]), rng.randrange(SLOTS)
        url, body = f"{self.lead.url}/slots/{slot}?action={action}", {"filename": rng.choice(FILES)}
        try:
            status = requests.post(url, json=body, timeout=apis.PATIENCE).status_code
        except INTERRUPTED:
            return
        if status not in SLOT_STATUSES:
            self._toll.bad(f"{action} of slot {slot}: status {status}")
        self._toll.count(f"slots: {action}, {'done' if status == 200 else 'refused'}")

    def close(self) -> None:
        for program in (*self._backs, self.lead):
            program.kill()
            program.close()


def ask(url: str, question: str, variant: int, hang_up: bool = False) -> str | None:
    """The text of an answer. None if the client hung up. Raises one of INTERRUPTED if the lead goes away."""
    api, fields = VARIANTS[variant]
    return apis.ask(url, api, question, TOKENS, fields, hang_up)


def described(question: str, variant: int) -> str:
    api, fields = VARIANTS[variant]
    return f"{question!r} to {api.path}, {fields}"


class Clients:
    """Threads that ask without a pause until they are stopped."""

    def __init__(self, count: int, url: str, expected: Mapping[tuple[str, int], str], toll: Toll, seed: int) -> None:
        self._url, self._expected, self._toll = url, expected, toll
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(random.Random(seed + i),)) for i in range(count)]
        for thread in self._threads:
            thread.start()

    def _run(self, rng: random.Random) -> None:
        while not self._over.is_set():
            question, variant = rng.choice(list(self._expected))
            try:
                text = ask(self._url, question, variant, hang_up=rng.random() < 0.1)
            except INTERRUPTED:
                self._toll.count("answers interrupted")
                self._over.wait(0.3)
                continue
            except Exception as error:
                self._toll.bad(f"{described(question, variant)}: {error!r}")
                continue
            if text is None:
                self._toll.count("clients that hung up")
            elif text == self._expected[question, variant]:
                self._toll.count("right answers")
            else:
                expected = self._expected[question, variant]
                self._toll.bad(f"{described(question, variant)}: {text!r}, not {expected!r}")

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def run(
    engine: Runtime, seconds: float, clients: int, count: int, seed: int, say: Callable[[str], None], deaths: int = 0
) -> Toll:
    """Runs the storm and returns what happened.

    It lasts `seconds`, and longer until `deaths` leads and `deaths` backs have been killed. count: different questions,
    each asked in all `VARIANTS`.
    """
    rng, toll = random.Random(seed), Toll()
    questions = [conversation.turns[0] for conversation in prompts.shipped(count)]
    with contextlib.ExitStack() as stack:
        scene = Scene(engine, toll, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        stack.callback(scene.close)
        say("what the answers are when nothing goes wrong")
        expected = {
            (question, variant): str(ask(scene.lead.url, question, variant))
            for question in questions
            for variant in range(len(VARIANTS))
        }
        for _ in range(MAX_BACKS):
            scene.start_back(rng)
        say(f"{clients} clients for {seconds:.0f} s; backs come and go, the lead too")
        crowd = Clients(clients, scene.lead.url, expected, toll, seed)
        try:
            _storm(scene, rng, seconds, lambda: min(toll.events["leads killed"], toll.events["backs killed"]) >= deaths)
        finally:
            crowd.stop()
        for question, variant in rng.sample(list(expected), 6):
            if ask(scene.lead.url, question, variant) != expected[question, variant]:
                toll.bad(f"after it all, {described(question, variant)}")
    return toll


def _storm(scene: Scene, rng: random.Random, seconds: float, enough: Callable[[], bool]) -> None:
    backs = (scene.start_back, scene.start_back, scene.kill_back, scene.stop_back, scene.wake_backs)
    actions = (*backs, scene.nuisance, scene.move_slot)
    end = time.monotonic() + seconds
    lead_dies = time.monotonic() + rng.uniform(*LEAD_LIFETIME)
    while time.monotonic() < end or not enough():
        rng.choice(actions)(rng)
        if time.monotonic() > lead_dies:
            scene.kill_lead()
            lead_dies = time.monotonic() + rng.uniform(*LEAD_LIFETIME)
        time.sleep(rng.uniform(0.2, 2.0))  # events come at random times
    scene.wake_backs(rng)


def add_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("--seconds", type=float, default=600.0, help="how long it lasts")
    p.add_argument("--clients", type=positive, default=6, help="clients that ask at the same time")
    p.add_argument("--questions", type=positive, default=6, help="different questions, each asked in several ways")
    p.add_argument("--engine", choices=("transformers", "llamacpp"), default="transformers", help="of the shipped pair")
    p.add_argument("--seed", type=int, default=1, help="of the random events")


def main(args: argparse.Namespace) -> int:
    console = Console()
    toll = run(args.engine, args.seconds, args.clients, args.questions, args.seed, console.print)
    for event, number in sorted(toll.events.items()):
        console.print(f"{number:6} {event}")
    console.print(f"{len(toll.wrong):6} wrong answers", style="bold red" if toll.wrong else "bold")
    for what in toll.wrong[:10]:
        console.print(what, markup=False)
    return 1 if toll.wrong or not toll.events["right answers"] else 0
