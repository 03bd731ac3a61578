"""Heads in the decode loop: what they guess, when they rest, and that no text changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.harness.decoding import Asked as AskedOfModel
from bench.harness.decoding import LeadLoop
from duo.engines import EngineOptions
from duo.engines.base import Logits
from duo.engines.exact.engine import ExactEngine
from duo.engines.exact.widths import WidthClass
from duo.engines.heads import Tip
from duo.engines.load import load_head
from duo.engines.transformers.engine import TransformersEngine
from duo.sampling.params import SamplingParams
from lead.decode.heads import MAX_REST, MIN_REST, TRIAL_ROUNDS, Heads
from lead.decode.memory import Memory
from lead.decode.sources import Sources
from lead.plan.limits import Limits
from lead.plan.verify_all import VerifyAll
from tests.support import tiny_heads
from tests.support.bytes_vocabulary import ByteVocabulary
from tests.support.fakes import FakeModel
from tests.support.loop import GREEDY, Asked, Loop, talkative
from tests.support.tiny_transformers import LOGITS, SHAPE, make_model


class FakeHead:
    """Guesses as a fake model does. `known`: whether it has seen states."""

    name = "a fake"
    depth = 5

    def __init__(self, doubt: float, known: bool = True) -> None:
        self._model = FakeModel(doubt)
        self._known = known
        self._texts: dict[int, list[int]] = {}
        self.begun: list[set[int]] = []
        """The slots that each pass was asked for."""
        self.steps = 0

    def begin(self, tips: Sequence[Tip]) -> Mapping[int, Logits]:
        self.begun.append({tip.slot for tip in tips})
        self._texts = {tip.slot: list(tip.tokens) for tip in tips} if self._known else {}
        return {slot: self._model.logits(text) for slot, text in self._texts.items()}

    def step(self, tokens: Mapping[int, int]) -> Mapping[int, Logits]:
        self.steps += 1
        for slot, token in tokens.items():
            self._texts[slot].append(token)
        return {slot: self._model.logits(self._texts[slot]) for slot in tokens}


def loop_with(head: FakeHead, slots: int = 2, planned: bool = False, memory: bool = False) -> Loop:
    sources = Sources(memory=Memory() if memory else None, heads=Heads(head, ByteVocabulary(), 8))
    return Loop(slots, None if planned else VerifyAll(Limits(draft_max=8, rows=48)), sources=sources)


def test_a_right_head_saves_passes_and_its_line_is_as_long_as_it_is_sure() -> None:
    asked, head = talkative(), FakeHead(0.0)
    loop = loop_with(head)
    loop.ask(asked)
    loop.finish()
    assert asked.tokens == asked.expected
    assert asked.request.session.steps < len(asked.tokens) / 2
    assert head.steps > len(head.begun) / 2
    assert set(asked.request.session.by_back) == {"heads"}


def test_a_head_that_has_seen_nothing_guesses_nothing() -> None:
    asked, head = talkative(), FakeHead(0.0, known=False)
    loop_with(head).ask(asked)
    loop = loop_with(head)
    loop.ask(asked)
    loop.finish()
    assert asked.tokens == asked.expected
    assert head.steps == 0


def test_several_answers_share_the_pass_of_the_head() -> None:
    head = FakeHead(0.0)
    loop = loop_with(head, slots=3)
    answers = [loop.ask(Asked([4 + n, 5], GREEDY, 24)) for n in range(3)]
    loop.finish()
    assert all(answer.tokens == answer.expected for answer in answers)
    assert {0, 1, 2} in head.begun


def test_where_a_back_has_guessed_the_head_is_not_asked() -> None:
    head = FakeHead(0.0)
    loop = loop_with(head, slots=1)
    loop.ask(talkative())
    loop.turn()
    begun = len(head.begun)
    loop.guess(doubt=0.0, far=3)
    loop.decoder.turn()  # hears them after it has asked the head
    loop.guess(doubt=0.0, far=3)
    asked = len(head.begun)
    assert asked > begun
    loop.finish()
    assert len(head.begun) < 40


def test_a_head_that_does_not_pay_rests_longer_and_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(10**9))
    monkeypatch.setattr("lead.decode.heads.time.perf_counter", lambda: float(next(now)))
    head = FakeHead(30.0)  # always wrong, and slow
    sources = Heads(head, ByteVocabulary(), 8)
    session = talkative()
    loop = Loop(1, VerifyAll(Limits(draft_max=8, rows=48)), sources=Sources(heads=sources))
    loop.ask(session)
    loop.turn()
    it = session.request.session
    asked = []
    for _ in range(1500):
        before = len(head.begun)
        sources.guesses([it], rate=10.0)
        asked.append(len(head.begun) > before)
    first = asked.index(False)
    rest = asked.index(True, first) - first
    assert first <= TRIAL_ROUNDS
    assert MIN_REST <= rest + 1 <= MIN_REST + 1
    assert sum(asked) < 8 * TRIAL_ROUNDS
    assert MAX_REST > MIN_REST


@settings(deadline=None, max_examples=40)
@given(
    prompts=st.lists(st.lists(st.integers(4, 9), min_size=1, max_size=12), min_size=1, max_size=5),
    planned=st.booleans(),
    memory=st.booleans(),
    doubts=st.tuples(st.sampled_from([0.0, 0.3, 3.0]), st.sampled_from([0.0, 0.3, 3.0])),
    backs=st.lists(st.booleans(), min_size=8, max_size=8),
    temperature=st.sampled_from([0.0, 0.8]),
)
def test_any_mixture_of_sources_gives_the_same_text(
    prompts: Sequence[Sequence[int]],
    planned: bool,
    memory: bool,
    doubts: tuple[float, float],
    backs: Sequence[bool],
    temperature: float,
) -> None:
    loop = loop_with(FakeHead(doubts[0]), 3, planned, memory)
    sampling = SamplingParams(temperature=temperature, seed=7)
    answers = [loop.ask(Asked(prompt, sampling, 24)) for prompt in (*prompts, *prompts)]
    for turn in range(1000):
        if not loop.decoder.waiting and not loop.decoder.running:
            break
        if backs[turn % len(backs)]:
            loop.guess(doubts[1], far=3)
        loop.turn()
    for answer in answers:
        assert answer.ended and answer.error is None
        assert answer.tokens == answer.expected


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    config: Any = transformers.LlamaConfig(**{**SHAPE, "num_hidden_layers": 3})
    yield make_model(tmp_path_factory.mktemp("tiny"), config)
    torch.set_num_threads(threads)


def texts(model: str, path: str, chains: bool, heads: bool) -> list[list[int]]:
    """Answers at both temperatures, several at once."""
    engine: Any = TransformersEngine(
        model, EngineOptions(slots=3, tree_rows=48, batch=64, chains=chains), lambda share: None
    )
    if chains:
        engine = ExactEngine(engine, WidthClass(8, 8, 8, True))
    limits = Limits(draft_max=6, rows=8 if chains else 48, rollback=engine.rollback)
    source = None
    if heads:
        head = load_head(engine, path)
        assert head is not None
        source = Heads(head, engine.vocabulary, 6)
    loop = LeadLoop(engine, VerifyAll(limits), heads=source)
    asked = [
        AskedOfModel([3 + n, 40, 41 + n], SamplingParams(temperature=temperature, seed=n), 20)
        for n in range(3)
        for temperature in (0.0, 0.8)
    ]
    answers = loop.ask(asked)
    assert all("heads" in answer.request.session.by_back for answer in answers) == heads
    return [answer.tokens for answer in answers]


@pytest.mark.parametrize("kind", ["medusa", "mlp", "eagle3"])
@pytest.mark.parametrize("chains", [False, True])
def test_a_real_target_says_the_same_with_a_head(kind: str, chains: bool, model: str, tmp_path: Path) -> None:
    path = {
        "medusa": lambda: tiny_heads.medusa(tmp_path, 32, LOGITS, 3, own=False),
        "mlp": lambda: tiny_heads.mlp(tmp_path, 32, LOGITS),
        "eagle3": lambda: tiny_heads.eagle3(tmp_path, 32, LOGITS, [0, 1, 2]),
    }[kind]()
    assert texts(model, path, chains, heads=True) == texts(model, path, chains, heads=False)
