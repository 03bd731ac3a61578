"""Which prompts the next forward pass reads, and how much of them.

Prompts are read in chunks, beside the rows of the answers in progress, so that a long prompt does not hold these up.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from duo.engines import ROOT, Chunk, Engine, Row
from duo.prefix import common_length
from duo.sampling.logprobs import logprobs
from duo.trace import Trace
from lead.decode.request import Request
from lead.decode.roster import Roster
from lead.plan.speculation import Speculation

CHUNK = 64
"""Tokens of prompts that a step reads at least beside answers in progress, and at first."""
SCORED_CHUNK = 32
"""Tokens of a prompt read at a time where their log probabilities are asked for. Each is a row of the pass."""
MAX_SLOWDOWN = 3.0
"""A step that also prefills may take this many times a plain decode step. The chunk is sized for that, but never below
`CHUNK`."""


@dataclass(slots=True, eq=False)
class Prefill:
    """Reads the prompts of requests that have a slot, the oldest first."""

    engine: Engine
    roster: Roster
    speculation: Speculation
    trace: Trace
    step_seconds: float = 0.0
    """Seconds that a step takes, lately, that reads no prompt."""
    token_seconds: float = 0.0
    """Seconds of a forward pass per token of a prompt that it reads, lately; 0: not known."""

    def next_chunks(self) -> dict[Request, Chunk]:
        """What the next forward pass should read of each prompt.

        A prompt that the cache holds is done at once. One whose log probabilities are asked for is read here, in part.
        """
        self._score_next()
        chunks: dict[Request, Chunk] = {}
        left = self._capacity()
        for request in list(self.roster.reading):
            if request.scores:
                continue
            cacheable = request.prompt_logprobs is None
            # Afterwards it can take from the cache what it shares with a prompt that is read now.
            shared = self._shared(request, chunks) if cacheable else 0
            if (cacheable and left <= 0) or (shared and shared > self.roster.slots.known(request.tokens)):
                break
            try:
                self._settle(request)
            except Exception as error:
                self.roster.fail([request], error)
                continue
            begin = request.read_tokens
            if count := max(0, min(request.unread, left)):
                chunks[request] = Chunk(request.slot.id, request.tokens[begin : begin + count], count == request.unread)
                left -= count
            else:
                with self.speculation.uncounted(time.perf_counter):
                    self.roster.answer(request, time.perf_counter())
        return chunks

    def have_read(self, chunks: dict[Request, Chunk], started: float, done: float) -> None:
        """A forward pass has read these chunks, and all that follows is done."""
        count = sum(len(chunk.tokens) for chunk in chunks.values())
        if count >= CHUNK:
            self.token_seconds = self.roster.slots.swap.token_seconds = (done - started) / count
        for request in chunks:
            if request.status == "reading" and not request.unread:
                self.roster.answer(request, max(started, done - self.step_seconds) if request.session.steps else done)

    def _score_next(self) -> None:
        """Read some of a prompt whose log probabilities are asked for, in a forward pass of its own."""
        request = next((it for it in self.roster.reading if it.scores), None)
        if request is None:
            return
        try:
            with self.speculation.uncounted(time.perf_counter):
                self._score(request)
        except Exception as error:
            self.roster.fail([request], error)

    def _score(self, request: Request) -> None:
        self._settle(request)
        prompt, begin = request.tokens, request.read_tokens
        assert request.prompt_logprobs is not None
        count = min(request.unread, SCORED_CHUNK, self._capacity(), self.engine.capacity)
        end = begin + count
        rows = [Row(i, request.slot.id, token, i - 1 if i else ROOT) for i, token in enumerate(prompt[begin:end])]
        started = time.perf_counter()
        logits = self.engine.forward(rows)
        self.trace.span("decoder", "prefill", started, time.perf_counter(), prompt=count, rows=count)
        request.prompt_logprobs += [
            logprobs(row, token, request.top_logprobs or 0)
            for row, token in zip(logits, prompt[begin + 1 : end + 1], strict=True)
        ]
        self.engine.commit(request.slot.id, range(count))
        request.read_tokens = end

    def _settle(self, request: Request) -> None:
        """Find what the cache holds of the prompt, when it is first about to be read."""
        if request.slot.held is not request.tokens:
            most = len(request.tokens) - 1 if request.prompt_logprobs is None else 0
            with self.speculation.uncounted(time.perf_counter):  # a copy of a slot may be made
                request.cached_tokens = self.roster.slots.settle(request.slot, request.tokens, most)
            request.read_tokens = request.cached_tokens

    def _shared(self, request: Request, reading: Iterable[Request]) -> int:
        """Tokens of the prompt that it could take, once they are read, from a prompt that is being read.

        Recurrent states can be taken at checkpoints, and at the end of the other prompt.
        """
        most = 0
        for other in reading:
            shared = common_length(request.tokens, other.tokens)
            if shared < other.session.prompt_length - 1:
                shared -= shared % self.engine.spacing
            if shared > other.read_tokens:
                most = max(most, shared)
        return most

    def _capacity(self) -> int:
        """How many tokens of prompts to read at once. Every answer has a row in the same pass."""
        capacity = max(1, self.engine.batch - len(self.roster.running))
        if not self.roster.answering:
            return capacity
        if not self.token_seconds:
            return min(CHUNK, capacity)
        return min(capacity, max(CHUNK, int(MAX_SLOWDOWN * self.step_seconds / self.token_seconds)))
