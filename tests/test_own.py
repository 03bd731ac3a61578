"""A draft model beside the target, in the lead's own thread: what it takes from backs, and where it ends."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import cast

import numpy as np
import pytest

from bench.models import shipped
from duo.cost import CostCurve
from duo.draft_model import DraftModel
from duo.drafting import RIDERS, TREE
from duo.engines import Engine, EngineOptions, Logits, Row, load
from duo.engines.base import InterruptedForwardError
from duo.prefix import Prefix, extend_hash
from duo.sampling import SamplingParams
from duo.session import Session
from duo.trace import of_lead
from duo.tree import Expansion
from lead.own import OwnDraft

CONTEXT = 64


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = load(shipped("draft", "llamacpp"), "llamacpp", EngineOptions(threads=1, context=CONTEXT))
    yield engine
    engine.close()


def begun(engine: Engine, length: int) -> tuple[OwnDraft, Session]:
    with of_lead(None) as trace:
        own = OwnDraft(DraftModel(engine, CostCurve({1: 1.0, 8: 1.7}), 16, TREE, trace, "decoder"))
    session = Session(
        id=1,
        prompt_length=length,
        params=SamplingParams(temperature=0.0),
        prefix=Prefix(list(range(100, 100 + length))),
        eos=(),
        limit=1000,
    )
    own.begin(session)
    return own, session


def test_it_reads_the_prompt_and_then_drafts_from_its_end(engine: Engine) -> None:
    own, session = begun(engine, 40)
    assert own.offer is not None and own.offer.arrears == 0.0
    (found, *_) = own.expand()
    assert (found.length, found.hash) == (40, session.prefix.hash)
    assert found.tokens


def test_it_goes_on_from_what_backs_have_guessed(engine: Engine) -> None:
    own, session = begun(engine, 20)
    own.merge([Expansion(20, session.prefix.hash, [7], [0.99])])
    after = extend_hash(session.prefix.hash, 7)
    own.merge([Expansion(21, after, [8], [0.99])])
    (found, *_) = own.expand()
    assert (found.length, found.hash) == (22, extend_hash(after, 8))


def test_what_it_has_left_unread_is_in_arrears(engine: Engine) -> None:
    own, _ = begun(engine, 20)
    own.committed(20, list(range(RIDERS)))
    offer = own.offer
    assert offer is not None and offer.arrears == 0.0 and offer.first > offer.then
    own.committed(20 + RIDERS, [5, 6])
    offer = own.offer
    assert offer is not None and offer.arrears > 0.0
    (found, *_) = own.expand()
    assert found.length == 20 + RIDERS + 2


@pytest.mark.parametrize("length", [CONTEXT - 2, CONTEXT + 100])
def test_an_answer_that_grows_too_long_for_it_goes_on_without_it(engine: Engine, length: int) -> None:
    own, _ = begun(engine, length)
    for token in range(20):
        if own.offer is not None:
            own.expand()
        own.committed(length + token, [token])
        own.merge([Expansion(1, 1, [1], [0.5])])
    assert own.offer is None and not own.expand()
    again, _ = begun(engine, 10)
    assert again.expand(), "the next answer has it again"


def test_a_batch_is_given_up_when_the_answer_goes_elsewhere() -> None:
    """The answer goes elsewhere while the engine is at work; a commit that agrees, or of another session, disturbs it
    not."""
    told: list[tuple[int, int, list[int]]] = []

    class Busy:
        batch = 512
        interrupted = False

        def forward(self, rows: Sequence[Row]) -> Logits:
            for news in told:
                model.committed(*news)
            if self.interrupted:
                self.interrupted = False
                raise InterruptedForwardError
            logits = np.full((len(rows), 200), -20.0, np.float32)
            for row, of_row in zip(rows, logits, strict=True):
                of_row[row.token + 1] = 0.0
            return logits

        def keep(self, slot: int, path: Sequence[int], rest: Collection[int] = ()) -> None:
            pass

        def truncate(self, slot: int, length: int) -> None:
            pass

        def interrupt(self) -> None:
            self.interrupted = True

    with of_lead(None) as trace:
        model = DraftModel(cast(Engine, Busy()), CostCurve({1: 1.0, 8: 1.7}), 16, TREE, trace, "drafter")
    draft = model.open(7, SamplingParams(temperature=0.0), 3)
    draft.commit(0, [10, 11, 12])
    model.take(draft)

    def expand(*news: tuple[int, int, list[int]]) -> int:
        told[:] = news
        model.read(draft)
        return len(model.expand(draft)[0])

    assert expand() > 0
    assert expand((7, 3, [13])) > 0, "what it guessed"
    assert expand((8, 3, [99])) > 0, "another session"
    assert expand((7, 3, [99])) == 0
    draft.commit(3, [99])
    assert expand() > 0
    assert draft.answered == 1 and draft.guessed == 0


def test_whatever_happens_to_it_the_answer_goes_on(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    own, _ = begun(engine, 10)

    def fail(rows: Sequence[Row]) -> Logits:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "forward", fail)
        assert not own.expand()
    assert own.offer is None and "goes on without" in caplog.text
    again, _ = begun(engine, 10)
    assert again.expand(), "the next answer has it again"


def test_between_answers_it_is_idle(engine: Engine) -> None:
    own, _ = begun(engine, 10)
    own.end()
    assert own.offer is None and not own.expand()
