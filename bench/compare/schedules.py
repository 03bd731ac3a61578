"""Every competitor as something that can be asked: processes of its own, loaded, idle until it is its turn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import requests

from bench.compare.speculate import Decoded
from bench.compare.worker import WorkerProcess
from bench.harness.delay_proxy import DelayProxy
from bench.harness.models import Runtime
from bench.harness.processes import PATIENCE, BackProcess, LeadProcess, Program
from bench.harness.prompts import Question


@dataclass(frozen=True)
class Setup:
    """Two models, and the two devices that run them. `both`: the cores of both devices, for the target alone."""

    target: str
    draft: str
    runtime: Runtime
    lead_cpus: Sequence[int]
    back_cpus: Sequence[int]

    @property
    def both(self) -> list[int]:
        return [*self.lead_cpus, *self.back_cpus]


@dataclass(frozen=True)
class Answer:
    """`tokens`: how many were decoded in `seconds`, the prompt not counted."""

    text: str
    tokens: int
    seconds: float
    drafted: int
    accepted: int


class Setting(NamedTuple):
    """How long a draft is, and the probability of its path below which it ends earlier."""

    length: int
    floor: float = 0.0

    def __str__(self) -> str:
        return f"{self.length} tokens" + (f", floor {self.floor:g}" if self.floor else "")


class Schedule(ABC):
    """A competitor. Entering it starts its processes, one after the other; asked nothing, it does nothing."""

    networked = False
    """Whether a round trip between the two devices is in it."""
    own = True
    """Whether its text is to be that of the target alone."""
    lengths: Sequence[int] = ()
    """Draft lengths that it can be set to; empty where there is nothing to set."""
    floors: Sequence[float] = ()

    def __init__(self, name: str) -> None:
        self.name = name
        self.setting = Setting(0)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def at(self, round_trip: float) -> None:  # noqa: B027 - most have nothing to do
        """From now on the other device is so many seconds away, there and back."""

    @abstractmethod
    def answer(self, question: Question, n: int, temperature: float, seed: int) -> Answer:
        """Exactly n tokens."""


LEAD_TRACE, BACK_TRACE = "trace-lead.json", "trace-back.json"


class Kind(NamedTuple):
    """How our own programs are run. `flags` go to both; `beside`: the lead has the draft model as well."""

    back: bool = True
    beside: bool = False
    both_cores: bool = False
    flags: tuple[str, ...] = ()


class OwnLead(Schedule):
    """`python -m lead`, with a back or without. `traces`: folder for what both write down of what they do."""

    def __init__(self, name: str, setup: Setup, kind: Kind = Kind(), traces: Path | None = None) -> None:  # noqa: B008
        super().__init__(name)
        self.networked = kind.back
        self._setup = setup
        self._lead_flags = self._back_flags = kind.flags
        if kind.beside:
            self._lead_flags += ("--model-draft", setup.draft)
        if traces is not None:
            self._lead_flags += ("--trace", str(traces / LEAD_TRACE))
            self._back_flags += ("--trace", str(traces / BACK_TRACE))
        self._cpus = setup.both if kind.both_cores else setup.lead_cpus
        self._threads = max(1, len(setup.both)) if kind.both_cores else 1
        self._connection = ExitStack()
        self._round_trip: float | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            model = ("-m", self._setup.target, "--engine", self._setup.runtime, "--threads", str(self._threads))
            lead = LeadProcess(*model, "--print-mode", "none", *self._lead_flags, cpus=self._cpus)
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
                port = stack.enter_context(open_gate(port, delay)).port
            self._join(stack, port)
            self._connection = stack.pop_all()
        self._round_trip = round_trip

    def _delay(self, round_trip: float) -> float:
        return round_trip / 2

    def _join(self, stack: ExitStack, port: int) -> None:
        """Start a back and wait until it is there."""
        self.back = stack.enter_context(self._new_back(port))
        self.back.says("joined the lead")
        self.lead.has_backs(1)

    def _new_back(self, port: int) -> Program:
        model = ("-m", self._setup.draft, "--engine", self._setup.runtime, "--threads", "1")
        return BackProcess(port, *model, *self._back_flags, cpus=self._setup.back_cpus)

    def answer(self, question: Question, n: int, temperature: float, seed: int) -> Answer:
        asked = {"max_tokens": n, "temperature": temperature, "seed": seed, "ignore_eos": True}
        body = {"messages": list(question.messages), **asked}
        # Not streamed: the bench's own work would be on the cores that are measured.
        response = requests.post(f"{self.lead.url}/v1/chat/completions", json=body, timeout=20 * PATIENCE)
        reply: dict[str, Any] = response.json()
        if response.status_code != 200:
            raise RuntimeError(f"{self.name}: {reply['error']['message']}")
        t = reply["timings"]
        text: str = reply["choices"][0]["message"]["content"]
        return Answer(text, t["predicted_n"], t["predicted_ms"] / 1000, t["draft_n"], t["draft_n_accepted"])


class Local(Schedule):
    """A schedule of `bench.compare.speculate`, both models on the target's core. `do` and `fields`: the request."""

    def __init__(self, name: str, worker: WorkerProcess, do: str, **fields: Any) -> None:
        super().__init__(name)
        self._worker = worker
        self._do = do
        self._fields = fields

    def answer(self, question: Question, n: int, temperature: float, seed: int) -> Answer:
        asked = {"prompt": question.prompt, "n": n, "temperature": temperature, "seed": seed}
        return of_tokens(self._worker, self._worker.decode(self._do, **asked, **self._fields), n)


class Synchronous(Local):
    """Draft and verify in turns."""

    lengths = (1, 2, 3, 4, 6, 8, 12)
    floors = (0.3, 0.5, 0.7)

    def __init__(self, name: str, worker: WorkerProcess, port: int = 0, for_free: bool = False) -> None:
        """`for_free`: the clock stands still while the draft model works."""
        super().__init__(name, worker, "synchronous", port=port, for_free=for_free)

    def answer(self, question: Question, n: int, temperature: float, seed: int) -> Answer:
        self._fields.update(self.setting._asdict())
        return super().answer(question, n, temperature, seed)


class SynchronousRemote(Synchronous):
    """The same with the draft model on the other device: each chain is one request over the network."""

    networked = True

    def __init__(self, name: str, worker: WorkerProcess, draft: WorkerProcess) -> None:
        super().__init__(name, worker, draft.port)
        self._draft = draft
        self._connection = ExitStack()
        self._round_trip = 0.0

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def at(self, round_trip: float) -> None:
        if round_trip != self._round_trip:
            self._connection.close()
            self._connection = ExitStack()
            self._fields["port"] = self._draft.port
            if round_trip:
                gate = self._connection.enter_context(open_gate(self._draft.port, round_trip / 2))
                self._fields["port"] = gate.port
            self._round_trip = round_trip


def open_gate(port: int, delay: float) -> DelayProxy:
    """A gate that is open and makes everything late."""
    gate = DelayProxy(port, delay)
    gate.open()
    return gate


def of_tokens(worker: WorkerProcess, decoded: Decoded, counted: int) -> Answer:
    """An answer from its tokens; `counted` of them were decoded in its seconds."""
    text: str = worker.ask("decode", tokens=decoded.tokens)
    return Answer(text, counted, decoded.seconds, decoded.drafted, decoded.accepted)
