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
    own.begin(session, alone=True)
    return own, session


def test_it_reads_the_prompt_and_then_drafts_from_its_end(engine: Engine) -> None:
    own, session = begun(engine, 40)
    assert (offer := own.offer(session)) is not None and offer.arrears == 0.0
    (found, *_) = own.expand(session)
    assert (found.length, found.hash) == (40, session.prefix.hash)
    assert found.tokens


def test_it_goes_on_from_what_backs_have_guessed(engine: Engine) -> None:
    own, session = begun(engine, 20)
    own.merge(session, [Expansion(20, session.prefix.hash, [7], [0.99])])
    after = extend_hash(session.prefix.hash, 7)
    own.merge(session, [Expansion(21, after, [8], [0.99])])
    (found, *_) = own.expand(session)
    assert (found.length, found.hash) == (22, extend_hash(after, 8))


def test_what_it_has_left_unread_is_in_arrears(engine: Engine) -> None:
    own, session = begun(engine, 20)
    own.committed(session, 20, list(range(RIDERS)))
    offer = own.offer(session)
    assert offer is not None and offer.arrears == 0.0 and offer.first > offer.then
    own.committed(session, 20 + RIDERS, [5, 6])
    offer = own.offer(session)
    assert offer is not None and offer.arrears > 0.0
    (found, *_) = own.expand(session)
    assert found.length == 20 + RIDERS + 2


@pytest.mark.parametrize("length", [CONTEXT - 2, CONTEXT + 100])
def test_an_answer_that_grows_too_long_for_it_goes_on_without_it(engine: Engine, length: int) -> None:
    own, session = begun(engine, length)
    for token in range(20):
        if own.offer(session) is not None:
            own.expand(session)
        own.committed(session, length + token, [token])
        own.merge(session, [Expansion(1, 1, [1], [0.5])])
    assert own.offer(session) is None and not own.expand(session)
    again, session = begun(engine, 10)
    assert again.expand(session), "the next answer has it again"


def test_whatever_happens_to_it_the_answer_goes_on(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    own, session = begun(engine, 10)

    def fail(rows: Sequence[Row]) -> Logits:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "forward", fail)
        assert not own.expand(session)
    assert own.offer(session) is None and "goes on without" in caplog.text
    again, session = begun(engine, 10)
    assert again.expand(session), "the next answer has it again"


def test_between_answers_it_is_idle(engine: Engine) -> None:
    own, session = begun(engine, 10)
    own.end(session)
    assert own.offer(session) is None and not own.expand(session)
