"""Guesses from text: what is found, how far a run goes, and that owners know nothing of each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from duo.draft.ngrams import TEXT_COST
from duo.prefix import Prefix
from duo.sampling.params import SamplingParams
from lead.decode.memory import MAX_OWNERS, MAX_RUN, NAME, Memory
from lead.decode.session import Session
from lead.plan.calibration import Calibration
from lead.plan.tree import GuessTree

LIMIT = 1 << 20


def session(tokens: Sequence[int], number: int = 1) -> Session:
    return Session(number, len(tokens), SamplingParams(), Prefix(tokens), (), LIMIT, defaultdict(Calibration))


def guess(memory: Memory, *sessions: Session) -> None:
    """As the decode loop does before it plans. All is indexed first."""
    for _ in range(20):
        memory.guesses([])
    for number, found in memory.guesses(sessions).items():
        tree = next(it.tree for it in sessions if it.id == number)
        for expansion in found:
            assert tree.merge(expansion, NAME, model=False), "the tree has the prefix"


def commit(memory: Memory, it: Session, tokens: Sequence[int]) -> None:
    for token in tokens:
        it.prefix.extend([token])
        it.tree.advance(token, it.prefix.hash)
    memory.committed(it, tokens)


def run(it: Session) -> list[int]:
    """The line of likeliest guesses."""
    return [node.token for node, _ in it.tree.chain(2 * MAX_RUN)]


def test_a_prompt_that_repeats_itself_goes_on() -> None:
    memory, it = Memory(), session([*range(50), *range(20)])
    memory.begin(it, "")
    guess(memory, it)
    assert run(it)[:5] == [20, 21, 22, 23, 24]


def test_a_run_grows_while_it_is_right() -> None:
    memory, it = Memory(), session([*range(300), 0, 1, 2])
    memory.begin(it, "")
    guess(memory, it)
    short = len(run(it))
    for token in range(3, 60):
        commit(memory, it, [token])
        guess(memory, it)
    assert run(it) == list(range(60, 60 + len(run(it))))
    assert short < len(run(it)) <= MAX_RUN


def test_an_answer_that_goes_round_is_followed_beyond_its_end() -> None:
    memory, it = Memory(), session([9, *[1, 2, 3, 4] * 5])
    memory.begin(it, "")
    guess(memory, it)
    assert run(it)[:9] == [1, 2, 3, 4, 1, 2, 3, 4, 1]


def test_a_wrong_guess_ends_the_run_and_another_place_is_found() -> None:
    memory, it = Memory(), session([*range(50), 7, 8, 9, 90, 91, 92, 1, 2, 3])
    memory.begin(it, "")
    guess(memory, it)
    assert run(it)[0] == 4
    commit(memory, it, [7, 8, 9])
    guess(memory, it)
    root = it.tree.root
    assert {root.children[10].chance, root.children[90].chance} == {root.children[90].chance}, "both are as likely"


def test_the_end_of_an_earlier_text_ends_a_run() -> None:
    memory, first, it = Memory(), session(range(10)), session([100, 0, 1, 2, 3, 4], 2)
    memory.begin(first, "")
    memory.end(first)
    memory.begin(it, "")
    guess(memory, it)
    assert run(it) == [5, 6, 7, 8, 9]
    commit(memory, it, [5, 6, 7, 8, 9])
    guess(memory, it)
    assert run(it) == []


def test_nothing_of_one_owner_is_guessed_for_another() -> None:
    memory = Memory()
    secret, mine, other = session(range(100)), session(range(30), 2), session(range(30), 3)
    memory.begin(secret, "one")
    memory.begin(mine, "one")
    memory.begin(other, "two")
    guess(memory, mine, other)
    assert run(mine)[:3] == [30, 31, 32]
    assert run(other) == []


def test_it_is_bounded_over_many_answers_and_owners() -> None:
    memory = Memory(max_tokens=5000)
    for number in range(10_000):
        it = session(range(number, number + 40), number)
        memory.begin(it, f"key {number % 97}")
        commit(memory, it, [1, 2, 3])
        memory.end(it)
        if not number % 500:
            assert len(memory) <= 5000 + 43 + TEXT_COST
            assert memory.owners <= MAX_OWNERS


def test_the_likelier_token_is_followed_though_another_place_agrees_longer() -> None:
    memory = Memory()
    often = [[number, 1, 2, 3, 4, 5, 6, 7, 8, 100, 101, 102] for number in (50, 51, 52)]
    once = [60, 61, 0, 1, 2, 3, 4, 5, 6, 7, 8, 200, 201, 202]
    for number, text in enumerate([once, *often]):
        memory.begin(session(text, number), "")
    it = session([61, 0, 1, 2, 3, 4, 5, 6, 7, 8], 9)
    memory.begin(it, "")
    guess(memory, it)
    assert run(it)[:3] == [100, 101, 102]
    assert 200 in it.tree.root.children


def test_a_run_that_the_tree_has_dropped_is_guessed_again() -> None:
    memory, it = Memory(), session([*range(50), *range(20)])
    memory.begin(it, "")
    guess(memory, it)
    it.tree = GuessTree(len(it.prefix), it.prefix.hash)
    guess(memory, it)
    assert run(it)[:3] == [20, 21, 22]


@given(st.lists(st.integers(0, 2), min_size=1, max_size=40), st.lists(st.integers(0, 2), max_size=60))
def test_whatever_follows_the_guesses_continue_the_prefix(prompt: list[int], answer: list[int]) -> None:
    memory, it = Memory(), session(prompt)
    memory.begin(it, "")
    for token in answer:
        guess(memory, it)
        assert len(it.tree) <= 4 * MAX_RUN
        commit(memory, it, [token])
