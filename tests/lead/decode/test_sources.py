"""Sources of guesses in the decode loop: none of them changes a text, and memory keeps owners apart."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from lead.decode.memory import Memory
from lead.decode.sources import Sources
from lead.plan.limits import Limits
from lead.plan.verify_all import VerifyAll
from tests.support.loop import GREEDY, Asked, Loop, talkative


def passes(loop: Loop, owner: str) -> int:
    """Asks for the same answer. Returns how many forward passes that took."""
    asked = talkative()
    asked.request.owner = owner
    loop.ask(asked)
    loop.finish()
    assert asked.tokens == asked.expected
    return asked.request.session.steps


def verifies_all(memory: Memory) -> Loop:
    return Loop(2, VerifyAll(Limits(draft_max=16, rows=48)), sources=Sources(memory=memory))


def test_what_was_answered_before_takes_few_passes_for_its_owner_alone() -> None:
    loop = verifies_all(Memory())
    first = passes(loop, "one")
    assert passes(loop, "one") < first / 3
    assert passes(loop, "two") == first, "nothing came from the other owner"


@settings(deadline=None, max_examples=40)
@given(
    prompts=st.lists(st.lists(st.integers(4, 9), min_size=1, max_size=12), min_size=1, max_size=5),
    planned=st.booleans(),
    doubt=st.sampled_from([0.0, 0.3, 3.0]),
    backs=st.lists(st.booleans(), min_size=8, max_size=8),
)
def test_any_mixture_of_sources_gives_the_same_text(
    prompts: Sequence[Sequence[int]], planned: bool, doubt: float, backs: Sequence[bool]
) -> None:
    loop = Loop(3, sources=Sources(memory=Memory())) if planned else verifies_all(Memory())
    answers = [loop.ask(Asked(prompt, GREEDY, 24)) for prompt in (*prompts, *prompts)]
    for turn in range(1000):
        if not loop.decoder.waiting and not loop.decoder.running:
            break
        if backs[turn % len(backs)]:
            loop.guess(doubt, far=3)
        loop.turn()
    for answer in answers:
        assert answer.ended and answer.error is None
        assert answer.tokens == answer.expected
