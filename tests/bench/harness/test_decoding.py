"""A bare loop and a lead's loop in this thread decode the same tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest

from bench.harness.decoding import Answered, Asked, LeadLoop, bare_loop
from duo.engines import Engine
from duo.errors import DuoError
from duo.guesses import Expansion
from duo.sampling.params import SamplingParams
from lead.plan.limits import Limits
from lead.plan.verify_all import VerifyAll
from tests.support.fakes import FakeModel
from tests.support.slotted import SlottedEngine

GREEDY = SamplingParams(temperature=0)


def engine(slots: int = 1) -> Engine:
    return cast(Engine, SlottedEngine(FakeModel(), slots))


def test_a_bare_loop_keeps_the_prompt_that_is_there() -> None:
    it = engine()
    for prompt in ([1, 2, 4, 5], [1, 2]):
        times = bare_loop(it, prompt, 6)
        assert len(times) == 7 and times == sorted(times)
        assert it.length(0) == len(prompt) + 5


def test_requests_at_once_get_the_answers_that_they_get_alone() -> None:
    asked = [Asked([1, 2, 4], GREEDY, 12), Asked([2, 7], SamplingParams(seed=3), 9)]
    alone = [LeadLoop(engine(), VerifyAll(Limits())).ask([each])[0].tokens for each in asked]
    together = LeadLoop(engine(2), VerifyAll(Limits())).ask(asked)
    assert [answer.tokens for answer in together] == alone
    assert [len(tokens) for tokens in alone] == [12, 9]


def test_guesses_merged_before_a_step_are_verified() -> None:
    asked = Asked([1, 2, 4], GREEDY, 12)
    right = LeadLoop(engine(), VerifyAll(Limits())).ask([asked])[0].tokens

    def guess(answers: Sequence[Answered]) -> None:
        (answer,) = answers
        if answer.request.status == "answering" and len(answer.tokens) < len(right):
            tree = answer.request.session.tree
            root = tree.root
            tree.merge(Expansion(root.length, root.hash, [right[len(answer.tokens)]], [0.9]), "a back")

    (answer,) = LeadLoop(engine(), VerifyAll(Limits())).ask([asked], guess)
    assert answer.tokens == right
    assert answer.request.session.total.accepted > 3


def test_an_error_of_an_answer_is_raised() -> None:
    it = SlottedEngine(FakeModel(), 1)
    it.fault = RuntimeError("no")
    with pytest.raises(DuoError):
        LeadLoop(cast(Engine, it), VerifyAll(Limits())).ask([Asked([1, 2], GREEDY, 3)])
