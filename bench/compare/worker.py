"""A process with a target, a draft or both. It is asked over a loopback connection, one JSON object per line.

With both models it runs the schedules of `bench.compare.speculate`. With a draft alone it is the draft server that
synchronous speculation calls over the network.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import sys
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Self

from bench.compare.speculate import POLICIES, Chain, ChainDraft, Decoded, Target, free, synchronous
from bench.harness.models import load_target
from bench.harness.processes import PATIENCE, Program, free_port
from duo.draft.policy import MAX_ROWS
from duo.draft.scaling import Scale, Sharpness
from duo.engines import Engine, EngineOptions, load, measure
from duo.engines.conditions import conditions
from duo.engines.cost import CostCurve
from duo.engines.replay import Replay
from duo.errors import DuoError, ModelError
from duo.sampling.params import SamplingParams
from lead.plan.limits import Limits
from lead.plan.planner import Planner


class Channel:
    """A connection that carries one JSON object per line, in both directions."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = connection
        self._lines = connection.makefile("rb")

    @classmethod
    def to(cls, port: int) -> Self:
        return cls(socket.create_connection(("127.0.0.1", port), PATIENCE))

    def send(self, message: Mapping[str, Any]) -> None:
        self._connection.sendall(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    def receive(self) -> dict[str, Any] | None:
        """The next object. None if the other side has gone."""
        line = self._lines.readline()
        message: dict[str, Any] | None = json.loads(line) if line else None
        return message

    def ask(self, do: str, **fields: Any) -> Any:
        """Sends a request, and returns its result. Raises RuntimeError if the other side fails or is gone."""
        self.send({"do": do, **fields})
        answer = self.receive()
        if answer is None or "error" in answer:
            raise RuntimeError(f"{do}: {answer['error'] if answer else 'the worker has ended'}")
        return answer["result"]

    def close(self) -> None:
        self._lines.close()
        self._connection.close()


class NoDrafts:
    """A source of no guesses, where there is no draft model."""

    def begin(self, prompt: Sequence[int], params: SamplingParams) -> None:
        pass

    def chain(self, start: int, tokens: Sequence[int], length: int, floor: float) -> Chain:
        return []


class RemoteDrafts:
    """A draft server as a source of chains: one round trip for each."""

    def __init__(self, port: int) -> None:
        self._channel = Channel.to(port)

    def begin(self, prompt: Sequence[int], params: SamplingParams) -> None:
        self._channel.ask("begin", prompt=prompt, temperature=params.temperature, seed=params.seed)

    def chain(self, start: int, tokens: Sequence[int], length: int, floor: float) -> Chain:
        chain: Chain = self._channel.ask("chain", start=start, tokens=tokens, length=length, floor=floor)
        return chain

    def close(self) -> None:
        self._channel.close()


class Worker:
    """Answers requests. The request `{"do": "chat", ...}` calls `do_chat`."""

    def __init__(self, target: Engine | None, draft: Engine | None, what: Sequence[object]) -> None:
        """`what`: the `conditions` of the target."""
        self._target = Target(target) if target is not None else None
        self._draft = draft
        self._chains = ChainDraft(draft) if draft is not None else None
        self._remote: tuple[int, RemoteDrafts] | None = None
        self._scales = {name: (Scale(), Sharpness()) for name in POLICIES}
        self._planners: dict[str, Planner] = {}
        self._one_at_a_time = threading.Lock()
        if target is not None:
            draft_max = Limits().draft_max
            for name in POLICIES:
                measured = measure.remembered(target, 1 + draft_max, what)
                cost = CostCurve(measured.seconds)
                replay = Replay(measured.checkpoints, cost) if measured.checkpoints is not None else None
                self._planners[name] = Planner(cost, Limits(draft_max, rollback=target.rollback), replay=replay)

    def do_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """The prompt of a conversation, in tokens."""
        return self._engine.vocabulary.chat(messages)

    def do_decode(self, tokens: Sequence[int]) -> str:
        return self._engine.vocabulary.decode(tokens)

    def do_context(self) -> int:
        """How many tokens a conversation may have."""
        return self._engine.context

    def do_begin(self, prompt: Sequence[int], temperature: float, seed: int) -> None:
        assert self._chains is not None
        self._chains.begin(prompt, SamplingParams(temperature=temperature, seed=seed))

    def do_chain(self, start: int, tokens: Sequence[int], length: int, floor: float) -> Chain:
        assert self._chains is not None
        return self._chains.chain(start, tokens, length, floor)

    def do_synchronous(
        self, prompt: Sequence[int], n: int, temperature: float, seed: int, length: int, floor: float, port: int = 0,
        for_free: bool = False,
    ) -> dict[str, Any]:  # fmt: skip
        """port: where the draft server is; 0: the draft model is in this process."""
        assert self._target is not None
        drafts = self._drafts_at(port) if port else self._chains or NoDrafts()
        params = SamplingParams(temperature=temperature, seed=seed)
        return asdict(synchronous(self._target, drafts, prompt, n, params, length, floor, for_free))

    def do_free(self, prompt: Sequence[int], n: int, temperature: float, seed: int, policy: str) -> dict[str, Any]:
        assert self._target is not None and self._draft is not None and self._chains is not None
        params = SamplingParams(temperature=temperature, seed=seed)
        self._chains.forget()
        planner, (scale, sharpness) = self._planners[policy], self._scales[policy]
        return asdict(free(self._target, self._draft, scale, sharpness, planner, prompt, n, params, POLICIES[policy]))

    @property
    def _engine(self) -> Engine:
        engine = self._target.engine if self._target is not None else self._draft
        assert engine is not None
        return engine

    def _drafts_at(self, port: int) -> RemoteDrafts:
        """The connection to a draft server. The last one stays open."""
        if self._remote is None or self._remote[0] != port:
            if self._remote is not None:
                self._remote[1].close()
            self._remote = (port, RemoteDrafts(port))
        return self._remote[1]

    def serve(self, listening: socket.socket) -> None:
        """Serves for ever. Several clients may be connected, and one request runs at a time."""
        while True:
            channel = Channel(listening.accept()[0])
            threading.Thread(target=self._converse, args=(channel,), daemon=True).start()

    def _converse(self, channel: Channel) -> None:
        with contextlib.suppress(OSError):
            while (request := channel.receive()) is not None:
                with self._one_at_a_time:
                    try:
                        answer = {"result": getattr(self, f"do_{request.pop('do')}")(**request)}
                    except Exception as error:
                        answer = {"error": f"{type(error).__name__}: {error}"}
                channel.send(answer)
        channel.close()


class WorkerProcess(Program):
    """`python -m bench.compare.worker`, and a channel to it."""

    def __init__(
        self,
        target: str | None,
        draft: str | None,
        *,
        engine: str = "auto",
        threads: int = 1,
        cpus: Collection[int] = (),
    ) -> None:
        self.port = free_port()
        models = [*(("--target", target) if target else ()), *(("--draft", draft) if draft else ())]
        rest = ("--port", str(self.port), "--engine", engine, "--threads", str(threads))
        super().__init__("bench.compare.worker", *models, *rest, cpus=cpus)
        self._channel: Channel | None = None

    def ready(self) -> Self:
        """Waits until the models are loaded. Raises ModelError if they cannot be."""
        try:
            self.says("the worker is ready")
        except RuntimeError:
            why = [line for line in self.log.splitlines() if line.startswith("error: ")]
            if not why:
                raise
            raise ModelError(why[-1].removeprefix("error: ")) from None
        return self

    def ask(self, do: str, **fields: Any) -> Any:
        self._channel = self._channel or Channel.to(self.port)
        return self._channel.ask(do, **fields)

    def decode(self, do: str, **fields: Any) -> Decoded:
        """Sends a request that decodes, and returns the answer."""
        return Decoded(**self.ask(do, **fields))

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()
        super().close()


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--target")
    p.add_argument("--draft")
    p.add_argument("--engine", choices=("auto", "transformers", "llamacpp"), default="auto")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--port", type=int, required=True)
    args = p.parse_args(argv)
    started = time.perf_counter()

    options = EngineOptions(threads=args.threads, tree_rows=MAX_ROWS)
    try:
        target = load_target(args.target, args.engine, args.threads) if args.target else None
        draft = load(args.draft, args.engine, options) if args.draft else None
    except DuoError as error:
        print(f"error: {error}", flush=True)
        return error.exit_code
    # What a lead with the same flags says of its speed, so that both use the same measurement.
    what = conditions(args.target, target.runtime, EngineOptions(threads=args.threads)) if target else []
    worker = Worker(target, draft, what)
    with socket.create_server(("127.0.0.1", args.port)) as listening:
        print(f"the worker is ready after {time.perf_counter() - started:.1f} s", flush=True)
        worker.serve(listening)
    return 0


if __name__ == "__main__":
    sys.exit(main())
