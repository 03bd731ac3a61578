"""Speculative decoding of other projects as entrants."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Self

from bench.compare.assisted import Assisted
from bench.compare.entrant import Answer, Entrant, Setting, Setup
from bench.compare.llama_server import LlamaServer
from bench.compare.peers import Completion
from bench.compare.worker import WorkerProcess
from lead.match.prompts import Question


def _answer(worker: WorkerProcess, completion: Completion) -> Answer:
    """A peer's answer without its last token.

    A peer's seconds leave out the first token, which comes with the end of the prompt. So one more token was asked for.
    """
    tokens = completion.tokens[:-1]
    text: str = worker.ask("decode", tokens=tokens)
    return Answer(text, len(tokens), completion.seconds, completion.drafted, completion.accepted)


class LlamaServerSpeculation(Entrant):
    """llama.cpp's server with a draft model, on the target's core. A new draft length takes a new server."""

    must_match = False
    lengths = (1, 2, 3, 4, 6, 8, 16)
    floors = (0.4, 0.75)

    def __init__(self, name: str, setup: Setup, worker: WorkerProcess) -> None:
        super().__init__(name)
        self._setup = setup
        self._worker = worker
        self._server: tuple[Setting, LlamaServer] | None = None

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server[1].close()
            self._server = None

    def _serving(self) -> LlamaServer:
        if self._server is None or self._server[0] != self.setting:
            self.__exit__()
            setup, (length, floor) = self._setup, self.setting
            # Without flash attention, as our engine runs it: that is faster on a CPU.
            server = LlamaServer(
                setup.target, setup.draft, cpus=setup.lead_cpus, draft_max=length, p_min=floor,
                flash_attention="off",
            )  # fmt: skip
            self._server = (self.setting, server)
            server.ready()
        return self._server[1]

    def answer(self, question: Question, n: int, temperature: float, seed: int) -> Answer:
        return _answer(self._worker, self._serving().complete(question.prompt, n + 1, temperature, seed))


class LlamaServerKind(Entrant):
    """llama.cpp's server as it comes, without a draft model. kind: of its speculation; empty: none."""

    must_match = False

    def __init__(self, name: str, setup: Setup, worker: WorkerProcess, kind: str = "") -> None:
        super().__init__(name)
        self._setup, self._worker, self._kind = setup, worker, kind

    def __enter__(self) -> Self:
        server = LlamaServer(self._setup.target, cpus=self._setup.lead_cpus, kind=self._kind, flash_attention="off")
        with ExitStack() as stack:
            self._server = stack.enter_context(server).ready()
            self._stack = stack.pop_all()
        return self

    def answer(self, question: Question, n: int, temperature: float, seed: int) -> Answer:
        return _answer(self._worker, self._server.complete(question.prompt, n + 1, temperature, seed))


class AssistedGeneration(Entrant):
    """transformers' assisted generation, on the target's core or on both cores.

    It has its best setting, or the library's own with `as_it_comes`. `lookup`: prompt lookup, without the draft model.
    """

    must_match = False
    lengths: Sequence[int] = (1, 2, 3, 4, 6, 8, 12)
    floors: Sequence[float] = (0.4,)

    DEFAULTS = Setting(20, 0.4)
    """transformers' own defaults."""
    LOOKUP_LENGTHS = (3, 10, 30)

    def __init__(
        self, name: str, setup: Setup, worker: WorkerProcess, both_cores: bool = False, as_it_comes: bool = False,
        lookup: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(name)
        if lookup:
            self.lengths, self.floors = self.LOOKUP_LENGTHS, ()
        if as_it_comes:
            self.setting, self.lengths = self.DEFAULTS, ()
        self._setup = setup
        self._draft = "" if lookup else setup.draft
        self._worker = worker
        self._cpus = setup.both if both_cores else setup.lead_cpus
        self._threads = max(1, len(setup.both)) if both_cores else 1

    def __enter__(self) -> Self:
        it = Assisted(self._setup.target, self._draft, cpus=self._cpus, threads=self._threads)
        with ExitStack() as stack:
            self._peer = stack.enter_context(it).ready()
            self._stack = stack.pop_all()
        return self

    def answer(self, question: Question, n: int, temperature: float, seed: int) -> Answer:
        length, floor = self.setting
        completion = self._peer.complete(question.prompt, n + 1, temperature, seed, length, floor)
        return _answer(self._worker, completion)
