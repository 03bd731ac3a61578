"""Entrants that run in the worker: synchronous speculation, and the bounds of `bench.compare.speculate`."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from bench.compare.entrant import Answer, Entrant
from bench.compare.speculate import Decoded
from bench.compare.worker import WorkerProcess
from bench.harness.delay_proxy import delayed
from lead.match.prompts import Question


class InWorker(Entrant):
    """A schedule of `bench.compare.speculate`. Both models are on the target's core.

    do, fields: the request to the worker.
    """

    def __init__(self, name: str, worker: WorkerProcess, do: str, **fields: Any) -> None:
        super().__init__(name)
        self._worker = worker
        self._do = do
        self._fields = fields

    def answer(self, question: Question, n: int, temperature: float, seed: int) -> Answer:
        asked = {"prompt": question.prompt, "n": n, "temperature": temperature, "seed": seed}
        return of_tokens(self._worker, self._worker.decode(self._do, **asked, **self._fields), n)


class Synchronous(InWorker):
    """Drafts and verifies in turns: one model waits for the other."""

    lengths = (1, 2, 3, 4, 6, 8, 12)
    floors = (0.3, 0.5, 0.7)

    def __init__(self, name: str, worker: WorkerProcess, port: int = 0, for_free: bool = False) -> None:
        """port: where the draft server is; 0: no network. for_free: the clock stops while the draft model works."""
        super().__init__(name, worker, "synchronous", port=port, for_free=for_free)

    def answer(self, question: Question, n: int, temperature: float, seed: int) -> Answer:
        self._fields.update(self.setting._asdict())
        return super().answer(question, n, temperature, seed)


class SynchronousRemote(Synchronous):
    """Synchronous speculation with the draft model on the other device: one round trip for each chain."""

    networked = True

    def __init__(self, name: str, worker: WorkerProcess, draft: WorkerProcess | None) -> None:
        assert draft is not None, "it is left out without a draft model"
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
                proxy = self._connection.enter_context(delayed(self._draft.port, round_trip / 2))
                self._fields["port"] = proxy.port
            self._round_trip = round_trip


def of_tokens(worker: WorkerProcess, decoded: Decoded, counted: int) -> Answer:
    """An answer from its tokens. counted: how many of them were decoded in its seconds."""
    text: str = worker.ask("decode", tokens=decoded.tokens)
    return Answer(text, counted, decoded.seconds, decoded.drafted, decoded.accepted)
