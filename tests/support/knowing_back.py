"""A back that knows the answer, so its guesses are in time on any machine."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import grpc

from bench.compare.badback import guess
from bench.harness.processes import PATIENCE
from duo.guesses import Expansion
from duo.prefix import Prefix, extend_hash
from duo.wire.messages import Identity


class Knowing:
    """Its guesses: the answer's tokens, with every `wrong`th one replaced."""

    def __init__(self, size: int, wrong: int) -> None:
        self._size, self._wrong = size, wrong
        self.prompt_length = 0
        self.answer: Sequence[int] = ()

    def chain(self, prefix: Prefix) -> list[Expansion]:
        """The rest of the answer."""
        found: list[Expansion] = []
        at, place = prefix.hash, len(prefix) - self.prompt_length
        for i, right in enumerate(self.answer[place:] if place >= 0 else (), place):
            token = right if i % self._wrong != self._wrong - 1 else (right + 1) % self._size
            found.append(Expansion(self.prompt_length + i, at, [token], [0.9]))
            at = extend_hash(at, token)
        return found


@contextlib.contextmanager
def knowing_back(port: int, me: Identity, knowing: Knowing) -> Iterator[None]:
    """Run such a back in a thread, at the lead on this port."""
    calls: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def run() -> None:
        with contextlib.suppress(grpc.RpcError):  # cancelled, or the lead is gone
            guess(f"127.0.0.1:{port}", me, knowing.chain, calls.put)

    thread = threading.Thread(target=run)
    thread.start()
    call = calls.get(timeout=PATIENCE)
    try:
        yield
    finally:
        call.cancel()
        thread.join(PATIENCE)
