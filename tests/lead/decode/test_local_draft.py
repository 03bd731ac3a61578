"""A draft model beside the target, in the lead's own thread: what it takes from backs, and where it ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import cast

import pytest

from bench.harness.models import shipped
from duo.draft.model import DraftModel
from duo.draft.policy import MAX_RIDERS, TREE
from duo.engines import Engine, EngineOptions, Logits, Row, load
from duo.engines.base import TREES
from duo.engines.cost import CostCurve
from duo.guesses import Expansion
from duo.prefix import Prefix, extend_hash
from duo.program.trace_file import of_lead
from duo.sampling.params import SamplingParams
from lead.decode.local_draft import LocalDraft
from lead.decode.session import Session
from tests.support.desk import FLAT, DraftEngine
from tests.support.fakes import FakeModel
from tests.support.slotted import CHAINS, REPLAY

CONTEXT = 64


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = load(shipped("draft", "llamacpp"), "llamacpp", EngineOptions(threads=1, context=CONTEXT))
    yield engine
    engine.close()


def begun(engine: Engine, length: int) -> tuple[LocalDraft, Session]:
    with of_lead(None) as trace:
        own = LocalDraft(DraftModel(engine, CostCurve({1: 1.0, 8: 1.7}), 16, TREE, trace, "decoder"))
    session = Session(
        id=1,
        prompt_length=length,
        params=SamplingParams(temperature=0.0),
        prefix=Prefix(list(range(100, 100 + length))),
        eos=(),
        limit=1000,
    )
    own.begin(session, alone=True)
    return own, session


def expand(own: LocalDraft, session: Session) -> Sequence[Expansion]:
    """What it finds for one of its sessions alone."""
    return own.expand([session]).get(session.id, ())


def test_it_reads_the_prompt_and_then_drafts_from_its_end(engine: Engine) -> None:
    own, session = begun(engine, 40)
    assert (offer := own.offer([session])) is not None and offer.arrears == 0.0
    (found, *_) = expand(own, session)
    assert (found.length, found.hash) == (40, session.prefix.hash)
    assert found.tokens


def test_it_goes_on_from_what_backs_have_guessed(engine: Engine) -> None:
    own, session = begun(engine, 20)
    own.merge(session, [Expansion(20, session.prefix.hash, [7], [0.99])])
    after = extend_hash(session.prefix.hash, 7)
    own.merge(session, [Expansion(21, after, [8], [0.99])])
    (found, *_) = expand(own, session)
    assert (found.length, found.hash) == (22, extend_hash(after, 8))


def test_what_backs_had_guessed_before_it_began_is_not_drafted_again(engine: Engine) -> None:
    own, session = begun(engine, 20)
    own.end(session)
    session.tree.merge(Expansion(20, session.prefix.hash, [7], [0.99]), "back")
    after = extend_hash(session.prefix.hash, 7)
    session.tree.merge(Expansion(21, after, [8], [0.99]), "back")
    own.begin(session, alone=True)
    (found, *_) = expand(own, session)
    assert (found.length, found.hash) == (22, extend_hash(after, 8))


def test_what_it_has_left_unread_is_in_arrears(engine: Engine) -> None:
    own, session = begun(engine, 20)
    own.committed(session, 20, list(range(MAX_RIDERS)))
    offer = own.offer([session])
    assert offer is not None and offer.arrears == 0.0 and offer.first > offer.then
    own.committed(session, 20 + MAX_RIDERS, [5, 6])
    offer = own.offer([session])
    assert offer is not None and offer.arrears > 0.0
    (found, *_) = expand(own, session)
    assert found.length == 20 + MAX_RIDERS + 2


@pytest.mark.parametrize("length", [CONTEXT - 2, CONTEXT + 100])
def test_an_answer_that_grows_too_long_for_it_goes_on_without_it(engine: Engine, length: int) -> None:
    own, session = begun(engine, length)
    for token in range(20):
        if own.offer([session]) is not None:
            expand(own, session)
        own.committed(session, length + token, [token])
        own.merge(session, [Expansion(1, 1, [1], [0.5])])
    assert own.offer([session]) is None and not expand(own, session)
    again, session = begun(engine, 10)
    assert expand(again, session), "the next answer has it again"


def test_whatever_happens_to_it_the_answer_goes_on(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    own, session = begun(engine, 10)

    def fail(rows: Sequence[Row]) -> Logits:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "forward", fail)
        assert not expand(own, session)
    assert own.offer([session]) is None and "goes on without" in caplog.text
    again, session = begun(engine, 10)
    assert expand(again, session), "the next answer has it again"


def test_between_answers_it_is_idle(engine: Engine) -> None:
    own, session = begun(engine, 10)
    own.end(session)
    assert own.offer([session]) is None and not expand(own, session)


class TestSeveralSessions:
    """Each has its own slot, and what goes wrong with one does not concern the others."""

    @staticmethod
    def asked(number: int, prompt: Sequence[int], eos: Sequence[int] = ()) -> Session:
        params = SamplingParams(temperature=0.0)
        return Session(
            id=number, prompt_length=len(prompt), params=params, prefix=Prefix(list(prompt)), eos=eos, limit=1000
        )

    @pytest.fixture(params=[TREES, CHAINS, REPLAY])
    def engine(self, request: pytest.FixtureRequest) -> DraftEngine:
        return DraftEngine(FakeModel(0.4), 2, request.param)

    @pytest.fixture
    def own(self, engine: DraftEngine) -> LocalDraft:
        with of_lead(None) as trace:
            return LocalDraft(DraftModel(cast(Engine, engine), CostCurve(FLAT), 16, TREE, trace, "decoder"))

    def test_a_prompt_is_read_when_it_is_to_be_drafted_from(self, own: LocalDraft, engine: DraftEngine) -> None:
        first, second = self.asked(1, [5] * 40), self.asked(2, [6] * 50)
        own.begin(first, alone=True)
        assert engine.read == 39
        own.begin(second, alone=False)
        assert engine.read == 39, "nobody is held up by it"
        offer = own.offer([second])
        assert offer is not None and offer.arrears == pytest.approx(CostCurve(FLAT)(49))
        assert engine.read == 39
        (found, *_) = expand(own, second)
        assert (found.length, found.hash) == (50, second.prefix.hash)
        assert 39 + 49 - MAX_RIDERS <= engine.read <= 39 + 49
        (found, *_) = expand(own, first)
        assert (found.length, found.hash) == (40, first.prefix.hash)

    def test_what_two_prompts_begin_with_is_read_once(self, own: LocalDraft, engine: DraftEngine) -> None:
        first, second = self.asked(1, [5] * 40), self.asked(2, [*[5] * 40, 6, 7])
        own.begin(first, alone=True)
        own.begin(second, alone=False)
        assert expand(own, second)
        assert engine.read == 39 and engine.shared == 39

    def test_commits_and_merges_are_of_their_session(self, own: LocalDraft) -> None:
        first, second = self.asked(1, [5, 6]), self.asked(2, [5, 6])
        for session in (first, second):
            own.begin(session, alone=False)
        own.committed(first, 2, [7])
        own.merge(second, [Expansion(2, second.prefix.hash, [8], [0.99])])
        assert expand(own, first)[0].hash == extend_hash(first.prefix.hash, 7)
        assert expand(own, second)[0].hash == extend_hash(second.prefix.hash, 8)
        own.end(first)
        assert own.offer([first]) is None and not expand(own, first)
        assert own.offer([second]) is not None

    def test_one_forward_pass_serves_all(self, own: LocalDraft, engine: DraftEngine) -> None:
        first, second = self.asked(1, [5] * 20), self.asked(2, [6] * 20)
        for session in (first, second):
            own.begin(session, alone=False)
        offer = own.offer([first, second])
        assert offer is not None and offer.expansions == 2
        before = len(engine.passes)
        found = own.expand([first, second])
        assert len(engine.passes) == before + 1
        assert {found[1][0].hash, found[2][0].hash} == {first.prefix.hash, second.prefix.hash}
        own.end(first)
        assert set(own.expand([first, second])) == {2}

    def test_more_sessions_than_slots_take_turns(self, own: LocalDraft) -> None:
        sessions = [self.asked(number, [number, *[5] * 20]) for number in range(1, 5)]
        for session in sessions:
            own.begin(session, alone=False)
        for _ in range(3):
            for session in sessions:
                assert own.offer([session]) is not None
                assert expand(own, session)

    def test_a_failure_ends_it_for_one_session(self, own: LocalDraft, engine: DraftEngine) -> None:
        first, second = self.asked(1, [5] * 20), self.asked(2, [6] * 20)
        for session in (first, second):
            own.begin(session, alone=False)
            assert expand(own, session)
        engine.fault = RuntimeError("out of memory")
        assert not expand(own, first) and own.offer([first]) is None
        engine.fault = None
        offer = own.offer([second])
        assert offer is not None and offer.arrears > 0.0, "it is not known what the engine holds"
        assert expand(own, second)
        third = self.asked(3, [5] * (engine.context + 1))
        own.begin(third, alone=True)
        assert own.offer([third]) is None and expand(own, second)

    def test_another_padding_of_the_same_vocabulary(self, engine: DraftEngine) -> None:
        """As that of Qwen 2.5, whose large models have 128 tokens more that mean nothing."""
        size = FakeModel.size
        for vocabulary in (size + 8, size - 2):
            engine = DraftEngine(FakeModel(0.4), slots=2)
            with of_lead(None) as trace:
                model = DraftModel(cast(Engine, engine), CostCurve(FLAT), 16, TREE, trace, "decoder")
            model.drafts_for(vocabulary)
            own = LocalDraft(model)
            least = min(size, vocabulary)
            first, second = self.asked(1, [5, 6]), self.asked(2, [5, 6, 7])
            first.params = replace(first.params, logit_bias={least: 5.0, 7: 50.0})
            for session in (first, second):
                own.begin(session, alone=False)
            found = own.expand([first, second])
            assert found[1][0].tokens[0] == 7, "the others stand"
            assert all(token < least for of in found.values() for each in of for token in each.tokens)
            own.merge(second, [Expansion(3, second.prefix.hash, [least], [0.9])])
            assert expand(own, second)
            own.committed(first, 2, [least])
            assert own.offer([first]) is not None and expand(own, first), "it is read as something harmless"
            assert expand(own, second)

    def test_it_does_not_draft_past_the_end_of_an_answer(self, own: LocalDraft, engine: DraftEngine) -> None:
        every = range(FakeModel.size)
        ends, goes_on = self.asked(1, [5, 6], every), self.asked(2, [5, 6])
        for session in (ends, goes_on):
            own.begin(session, alone=False)
            assert expand(own, session)
        assert own.offer([ends]) is None and own.offer([goes_on]) is not None
