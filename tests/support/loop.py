"""A decode loop without its thread: the tests call its turns, so that every order of events can be tried."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import cast

from duo.engines import Engine
from duo.engines.cost import CostCurve
from duo.errors import DuoError
from duo.guesses import Expansion
from duo.prefix import Prefix
from duo.sampling.logprobs import logprobs
from duo.sampling.params import SamplingParams
from duo.trace import Trace
from duo.wire.ledger import Ledger
from lead.decode.inbox import Message
from lead.decode.loop import Decoder
from lead.decode.request import Request
from lead.decode.session import Step
from lead.decode.sources import Sources
from lead.plan.limits import Limits
from lead.plan.planner import Planner
from lead.plan.speculation import Speculation
from tests.support.fakes import SIZE, FakeModel
from tests.support.slotted import EOS, SlottedEngine
from tests.support.texts import text_without_backs

MODEL = FakeModel()


class Asked:
    """A request, and what became of it."""

    def __init__(
        self,
        prompt: Sequence[int],
        sampling: SamplingParams,
        count: int = 12,
        scored: bool = False,
        stop_tokens: Collection[int] = (),
    ) -> None:
        self.tokens: list[int] = []
        self.ended = False
        self.error: DuoError | None = None
        self.expected = text_without_backs(prompt, sampling, {EOS, *stop_tokens}, len(prompt) + count)
        self.request = Request(
            prompt=list(prompt), sampling=sampling, max_tokens=count, ignore_eos=False,
            on_step=self._step, on_end=self._end, stop_tokens=stop_tokens, top_logprobs=2 if scored else None,
            prompt_logprobs=[] if scored else None,
        )  # fmt: skip

    def scores_are_right(self) -> bool:
        prompt = list(self.request.prompt)
        expected = [logprobs(MODEL.logits(prompt[:at]), prompt[at], 2) for at in range(1, len(prompt))]
        return self.request.prompt_logprobs == (expected if self.request.top_logprobs is not None else None)

    def _step(self, step: Step) -> None:
        assert not self.ended
        assert self.tokens or self.scores_are_right(), "known before the first token"
        self.tokens += [done.token for done in step.committed]

    def _end(self, error: DuoError | None) -> None:
        assert not self.ended
        self.ended, self.error = True, error


class Fixed(CostCurve):
    """One that learns nothing of how long the fake engine takes."""

    def observe(self, rows: int, seconds: float) -> None:
        assert rows > 0 and seconds >= 0.0


FLAT = {1: 1.0, 8: 1.1, 48: 2.0}


STEEP = {1: 1.0, 2: 2.8, 4: 3.5, 8: 5.0}


class Loop:
    """A decoder without its thread."""

    def __init__(
        self,
        slots: int,
        schedule: Speculation | None = None,
        engine: SlottedEngine | None = None,
        cache_bytes: int = 0,
        sources: Sources = Sources(),  # noqa: B008 - it is frozen
    ) -> None:
        self.engine = engine or SlottedEngine(MODEL, slots)
        self.ledger = Ledger()
        planner = schedule or Planner(Fixed(FLAT), Limits(draft_max=8, rows=32))
        self.decoder = Decoder(cast(Engine, self.engine), self.ledger, planner, Trace(), sources, cache_bytes)

    def ask(self, asked: Asked) -> Asked:
        self.decoder.submit(asked.request)
        return asked

    def turn(self) -> None:
        """Once round the loop."""
        self.decoder.turn()

    def finish(self) -> None:
        for _ in range(1000):
            if not self.decoder.waiting and not self.decoder.running:
                return
            self.turn()
        raise AssertionError("answers do not come to an end")

    def guess(self, doubt: float = 0.3, far: int = 1, came: float = 0.0) -> None:
        """A back says something about every open session, now and then the right thing, `far` tokens ahead."""
        model = FakeModel(doubt)
        for entry in list(self.ledger.values()):
            prefix, expansions = Prefix(entry.prefix.tokens), list[Expansion]()
            for _ in range(far):
                token = int(model.logits(prefix.tokens).argmax())
                guesses = [token, (token + 1) % SIZE]
                expansions.append(Expansion(len(prefix), prefix.hash, guesses, [0.9, 0.1]))
                prefix.extend([token])
            self.decoder.inbox.put(Message("back", came, [(entry.session, expansions)]))


GREEDY = SamplingParams(temperature=0.0)


def talkative() -> Asked:
    """A question with an answer of 40 tokens."""
    return next(it for n in range(100) if len((it := Asked([4 + n % 8, 4 + n // 8], GREEDY, 40)).expected) == 40)


def breaks(*args: object) -> Step:
    raise ZeroDivisionError("broken")


def reading_apart(slots: int) -> SlottedEngine:
    engine = SlottedEngine(MODEL, slots)
    engine.mixes = False
    return engine
