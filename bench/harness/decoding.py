"""Decoding in this thread: an engine in a bare loop, and a lead's decode loop without its ports."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from duo.engines import Engine, Row
from duo.errors import DuoError
from duo.sampling.params import SamplingParams
from duo.trace import Trace
from duo.wire.ledger import Ledger
from lead.decode.heads import Heads
from lead.decode.local_draft import LocalDraft
from lead.decode.loop import Decoder
from lead.decode.request import Request
from lead.decode.session import Step
from lead.decode.sources import Sources
from lead.plan.speculation import Speculation


def chat_prompt(engine: Engine, question: str) -> list[int]:
    """The tokens of a conversation that begins with this question."""
    return engine.vocabulary.chat([{"role": "user", "content": question}])


def text_prompt(engine: Engine, length: int) -> list[int]:
    """A prompt of `length` tokens: a text that means something, over and over."""
    text = "The lead serves the large model, and every back keeps guessing what it will say next. "
    tokens = engine.vocabulary.encode(text * (1 + length // 8))
    return tokens[:length]


def bare_loop(engine: Engine, prompt: Sequence[int], count: int) -> list[float]:
    """Decodes `count` tokens greedily in slot 0, and nothing else.

    What slot 0 holds must be a beginning of the prompt. Returns when the prompt was read, and when each token was
    picked: `count + 1` times in seconds.
    """
    held = min(engine.length(0), len(prompt) - 1)
    engine.truncate(0, held)
    if prompt[held:-1]:
        engine.extend(0, prompt[held:-1])
    token = prompt[-1]
    times = [time.perf_counter()]
    for _ in range(count):
        logits = engine.forward([Row(0, 0, token)])
        engine.commit(0, [0])
        token = int(logits[0].argmax())
        times.append(time.perf_counter())
    return times


@dataclass(frozen=True)
class Asked:
    """A request: exactly `count` tokens after the prompt."""

    prompt: Sequence[int]
    params: SamplingParams
    count: int


@dataclass(frozen=True)
class Answered:
    """The tokens of an answer so far, and its state in the decode loop."""

    request: Request
    tokens: list[int] = field(default_factory=list)


class LeadLoop:
    """A lead's decode loop, driven from this thread. No back can join it: guesses are merged by hand."""

    def __init__(
        self,
        target: Engine,
        speculation: Speculation,
        local_draft: LocalDraft | None = None,
        heads: Heads | None = None,
    ) -> None:
        self._decoder = Decoder(target, Ledger(), speculation, Trace(), Sources(local_draft, heads=heads))

    def ask(
        self, asked: Sequence[Asked], before_step: Callable[[Sequence[Answered]], None] = lambda answers: None
    ) -> list[Answered]:
        """Answers requests that come at the same time. Raises the error that one of them ended with.

        before_step: called before each step of the loop, for example to merge guesses.
        """
        errors: list[DuoError | None] = []
        answers = [self._submit(each, errors.append) for each in asked]
        while len(errors) < len(asked):
            before_step(answers)
            self._decoder.turn()
        for error in errors:
            if error is not None:
                raise error
        return answers

    def _submit(self, asked: Asked, on_end: Callable[[DuoError | None], None]) -> Answered:
        tokens: list[int] = []

        def take(step: Step) -> None:
            tokens.extend(done.token for done in step.committed)

        request = Request(list(asked.prompt), asked.params, asked.count, True, take, on_end)
        self._decoder.submit(request)
        return Answered(request, tokens)
