"""Our own programs as entrants: a lead without a back, with one, and with a bad one."""

from __future__ import annotations

import signal
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Self

import requests

from bench.compare.entrant import Answer, Entrant, Setup
from bench.harness.delay_proxy import delayed
from bench.harness.processes import PATIENCE, BackProcess, LeadProcess, Program
from lead.http import owner
from lead.match.prompts import Question

LEAD_TRACE, BACK_TRACE = "trace-lead.json", "trace-back.json"


class Layout(NamedTuple):
    """Which programs of ours run, and where.

    back: there is a back. local_draft: the lead has the draft model too. both_cores: the target uses the cores of both
    devices. flags: of both programs.
    """

    back: bool = True
    local_draft: bool = False
    both_cores: bool = False
    flags: tuple[str, ...] = ()


class LeadEntrant(Entrant):
    """`python -m lead`, with or without a back. traces: the folder for the trace files of both."""

    def __init__(self, name: str, setup: Setup, layout: Layout = Layout(), traces: Path | None = None) -> None:  # noqa: B008
        super().__init__(name)
        self.networked = layout.back
        self._setup = setup
        self._lead_flags = self._back_flags = layout.flags
        if layout.local_draft:
            self._lead_flags += ("--model-draft", setup.draft)
        if traces is not None:
            self._lead_flags += ("--trace", str(traces / LEAD_TRACE))
            self._back_flags += ("--trace", str(traces / BACK_TRACE))
        self._cpus = setup.both if layout.both_cores else setup.lead_cpus
        self._threads = max(1, len(setup.both)) if layout.both_cores else 1
        self._connection = ExitStack()
        self._round_trip: float | None = None
        self._owner = 0
        """Memory guesses from what was said to the same owner. Another number forgets it."""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            model = ("-m", self._setup.target, "--engine", self._setup.runtime, "--threads", str(self._threads))
            lead = LeadProcess(*model, "--print-mode", "none", "--cache-ram", "0", *self._lead_flags, cpus=self._cpus)
            self.lead = stack.enter_context(lead).ready()
            stack.push(self._disconnect)
            self._stack = stack.pop_all()
        return self

    def _disconnect(self, *_: object) -> None:
        self._connection.close()

    def at(self, round_trip: float) -> None:
        if not self.networked or round_trip == self._round_trip:
            return
        self._connection.close()
        with ExitStack() as stack:
            port = self.lead.back_port
            if delay := self._delay(round_trip):
                port = stack.enter_context(delayed(port, delay)).port
            self._join(stack, port)
            self._connection = stack.pop_all()
        self._round_trip = round_trip

    def forget(self) -> None:
        self._owner += 1

    def _delay(self, round_trip: float) -> float:
        return round_trip / 2

    def _join(self, stack: ExitStack, port: int) -> None:
        """Starts a back, and waits until it has joined."""
        self.back = stack.enter_context(self._new_back(port))
        self.back.says("joined the lead")
        self.lead.has_backs(1)

    def _new_back(self, port: int) -> Program:
        model = ("-m", self._setup.draft, "--engine", self._setup.runtime, "--threads", "1")
        return BackProcess(port, *model, *self._back_flags, cpus=self._setup.back_cpus)

    def answer(self, question: Question, n: int, temperature: float, seed: int) -> Answer:
        asked = {"max_tokens": n, "temperature": temperature, "seed": seed, "ignore_eos": True}
        body = {"messages": list(question.messages), **asked}
        # Not streamed, because reading a stream takes time on the measured cores.
        url, headers = f"{self.lead.url}/v1/chat/completions", {owner.HEADER: str(self._owner)}
        response = requests.post(url, json=body, headers=headers, timeout=20 * PATIENCE)
        reply: dict[str, Any] = response.json()
        if response.status_code != 200:
            raise RuntimeError(f"{self.name}: {reply['error']['message']}")
        t = reply["timings"]
        text: str = reply["choices"][0]["message"]["content"]
        return Answer(text, t["predicted_n"], t["predicted_ms"] / 1000, t["draft_n"], t["draft_n_accepted"])


class RandomBack(LeadEntrant):
    """Ours with a back that guesses at random and claims to be sure."""

    def _new_back(self, port: int) -> Program:
        model = ("-m", self._setup.draft, "--engine", self._setup.runtime)
        return Program("bench.compare.badback", "--lead", f"127.0.0.1:{port}", *model, cpus=self._setup.back_cpus)


class LateBack(LeadEntrant):
    """Ours with a back whose messages are late in both directions."""

    LATE_SECONDS = 0.3

    def _delay(self, round_trip: float) -> float:
        return round_trip / 2 + self.LATE_SECONDS


class StoppedBack(LeadEntrant):
    """Ours with a back that is stopped half of the time, by SIGSTOP."""

    PHASE_SECONDS = 0.5

    def answer(self, question: Question, n: int, temperature: float, seed: int) -> Answer:
        over = threading.Event()
        stopper = threading.Thread(target=self._stop_and_go, args=(over,))
        stopper.start()
        try:
            return super().answer(question, n, temperature, seed)
        finally:
            over.set()
            stopper.join()

    def _stop_and_go(self, over: threading.Event) -> None:
        while not over.is_set():
            self.back.send(signal.SIGSTOP)
            over.wait(self.PHASE_SECONDS)
            self.back.send(signal.SIGCONT)
            over.wait(self.PHASE_SECONDS)
