"""Sources of guesses in the decode loop: none of them changes a text, and memory keeps owners apart."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from duo.prefix import Prefix
from lead.decode.memory import Memory
from lead.decode.session import Session
from lead.decode.sources import Sources
from lead.plan.limits import Limits
from lead.plan.planner import Planner
from lead.plan.tree import GuessTree
from lead.plan.verify_all import VerifyAll
from tests.support.loop import FLAT, GREEDY, Asked, Fixed, Loop, talkative

LIMITS = Limits(draft_max=8, memory_max=40, rows=48)


def passes(loop: Loop, owner: str) -> int:
    """Asks for the same answer. Returns how many forward passes that took."""
    asked = talkative()
    asked.request.owner = owner
    loop.ask(asked)
    loop.finish()
    assert asked.tokens == asked.expected
    return asked.request.session.steps


def verifies_all(memory: Memory) -> Loop:
    return Loop(2, VerifyAll(LIMITS), sources=Sources(memory=memory))


def test_what_was_answered_before_takes_few_passes_for_its_owner_alone() -> None:
    loop = verifies_all(Memory())
    first = passes(loop, "one")
    assert passes(loop, "one") < first / 3
    assert passes(loop, "two") == first, "nothing came from the other owner"


def test_a_long_run_takes_one_pass() -> None:
    loop = verifies_all(Memory())
    for _ in range(4):  # it becomes surer
        last = passes(loop, "one")
    assert last <= 5, "40 tokens, of which 8 at once would be guesses of models"


def planned(memory: Memory) -> Loop:
    return Loop(3, Planner(Fixed(FLAT), LIMITS), sources=Sources(memory=memory))


@settings(deadline=None, max_examples=40)
@given(
    prompts=st.lists(st.lists(st.integers(4, 9), min_size=1, max_size=12), min_size=1, max_size=5),
    plans=st.booleans(),
    doubt=st.sampled_from([0.0, 0.3, 3.0]),
    events=st.lists(st.sampled_from(["turn", "guess", "far", "forget"]), min_size=8, max_size=8),
)
def test_any_mixture_of_sources_in_any_order_changes_no_text_and_holds_up_no_step(
    prompts: Sequence[Sequence[int]], plans: bool, doubt: float, events: Sequence[str]
) -> None:
    loop = planned(Memory()) if plans else verifies_all(Memory())
    answers = [loop.ask(Asked(prompt, GREEDY, 24)) for prompt in (*prompts, *prompts)]
    for number, answer in enumerate(answers):
        answer.request.owner = str(number % 2)
    for turn in range(1000):
        if not loop.decoder.waiting and not loop.decoder.running:
            break
        match events[turn % len(events)]:
            case "guess":
                loop.guess(doubt)
            case "far":
                loop.guess(doubt, far=6)
            case "forget":  # a tree has room for so many guesses, and drops some
                for request in loop.decoder.running:
                    session = request.session
                    session.tree = GuessTree(
                        len(session.prefix), session.prefix.hash, session.calibration, session.limit
                    )
        loop.turn()
    for answer in answers:
        assert answer.ended and answer.error is None
        assert answer.tokens == answer.expected
        assert answer.request.session.steps <= len(answer.tokens), "each pass gives a token"


@given(
    texts=st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 3), min_size=4, max_size=40)), max_size=6),
    asked=st.lists(st.integers(0, 3), min_size=4, max_size=20),
)
def test_whatever_is_guessed_for_a_key_stands_in_its_own_texts(
    texts: Sequence[tuple[bool, Sequence[int]]], asked: Sequence[int]
) -> None:
    """Each key has tokens of its own, so that one that strays would be seen."""
    memory, trees = Memory(), list[tuple[int, Session]]()
    for number, (other, text) in enumerate((*texts, (False, asked), (True, asked))):
        key = 10 if other else 0
        # The first tokens are common to both, so that the same n-grams are looked for.
        tokens = [*text[:3], *(key + token for token in text)]
        it = Session(number, len(tokens), GREEDY, Prefix(tokens), (), 1000)
        memory.begin(it, str(key))
        trees.append((key, it))
    for _ in range(5):
        memory.guesses([])
    for key, it in trees:
        for expansion in memory.guesses([it]).get(it.id, ()):
            assert all(token in range(4) or token in range(key, key + 4) for token in expansion.tokens)
