"""The draft tree under everything that may come over a network, against a model of it in a dictionary."""

from __future__ import annotations

import math
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duo.guesses import Expansion
from duo.prefix import Prefix
from lead.plan.tree import MAX_NODES, GuessTree, Node
from tests.support.trees import check

PROMPT = [5, 6, 7]
BACKS = ["a", "b", "c"]

# Few tokens and short paths, so that messages meet; and what only garbage holds.
paths = st.lists(st.integers(0, 2), max_size=5)
chances = st.one_of(
    st.sampled_from([0.0, 0.1, 0.5, 0.5, 1.0]),
    st.floats(0, 1),
    st.sampled_from([math.nan, math.inf, -math.inf, -1.0, 2.0, 1e308]),
)
guesses = st.lists(st.tuples(st.integers(0, 3), chances), max_size=5)


class Message(NamedTuple):
    """What a back says of the place after `path`, from the very first root; or of a place that is none."""

    back: str
    path: list[int]
    said: list[tuple[int, float]]
    garbage: tuple[int, int] | None

    @property
    def expansion(self) -> Expansion:
        prefix = Prefix([*PROMPT, *self.path])
        length, number = self.garbage or (len(prefix), prefix.hash)
        return Expansion(length, number, [t for t, _ in self.said], [p for _, p in self.said])


nowhere = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))
sensible = st.builds(Message, st.sampled_from(BACKS), paths, guesses, st.none())
messages = st.integers(0, 9).flatmap(
    lambda n: sensible if n else st.builds(Message, st.sampled_from(BACKS), paths, guesses, nowhere)
)
operations = st.lists(st.one_of(messages, st.integers(0, 2)), max_size=40)
"""Messages, and tokens that become final."""


def at(path: list[int], said: list[tuple[int, float]]) -> Expansion:
    return Message("", path, said, None).expansion


def clean(chance: float) -> float:
    return min(1.0, max(0.0, chance)) if math.isfinite(chance) else 0.0


def path_of(node: Node) -> tuple[int, ...]:
    """Tokens from below the root down to the node."""
    tokens: list[int] = []
    while node.parent is not None:
        tokens.append(node.token)
        node = node.parent
    return tuple(tokens[::-1])


@settings(max_examples=200, deadline=None)
@given(operations)
def test_any_interleaving_leaves_exactly_what_agrees(ops: list[Message | int]) -> None:
    """Against a dictionary from paths to what each back said of them, where nothing is too much to hold."""
    tree, prefix = GuessTree(len(PROMPT), Prefix(PROMPT).hash), Prefix(PROMPT)
    known: dict[tuple[int, ...], dict[str, float]] = {(): {}}
    for op in ops:
        if isinstance(op, int):
            prefix.extend([op])
            tree.advance(op, prefix.hash)
            known = {path[1:]: said for path, said in known.items() if path[:1] == (op,)}
            known.setdefault((), {})
        else:
            committed = prefix.tokens[len(PROMPT) :]
            below = tuple(op.path[len(committed) :])
            fits = op.garbage is None and op.path[: len(committed)] == committed and below in known
            assert tree.merge(op.expansion, op.back) == (len(op.said) if fits else 0)
            for token, chance in op.said if fits else ():
                known.setdefault((*below, token), {})[op.back] = clean(chance)
        assert {path_of(n): n.chances for n in tree.root.subtree() if n.parent} == {p: s for p, s in known.items() if p}
    check(tree, prefix, 10**6, 10**6)


@settings(max_examples=150, deadline=None)
@given(operations, st.integers(1, 12), st.integers(1, 4))
def test_any_interleaving_stays_within_its_bounds(ops: list[Message | int], max_nodes: int, max_depth: int) -> None:
    tree, prefix = GuessTree(len(PROMPT), Prefix(PROMPT).hash, max_nodes=max_nodes, max_depth=max_depth), Prefix(PROMPT)
    for op in ops:
        if isinstance(op, int):
            prefix.extend([op])
            tree.advance(op, prefix.hash)
        else:
            tree.merge(op.expansion, op.back)
        check(tree, prefix, max_nodes, max_depth)


@settings(max_examples=100, deadline=None)
@given(st.lists(sensible, max_size=8), st.randoms(use_true_random=False))
def test_order_and_repetition_do_not_matter_where_parents_come_first(said: list[Message], random: Random) -> None:
    final = list({(message.back, tuple(message.path)): message for message in said}.values())

    def grown(order: list[Message]) -> dict[tuple[int, ...], dict[str, float]]:
        tree = GuessTree(len(PROMPT), Prefix(PROMPT).hash)
        for message in order:
            tree.merge(message.expansion, message.back)
        return {path_of(node): node.chances for node in tree.root.subtree()}

    twice = final * 2
    random.shuffle(twice)
    twice.sort(key=lambda message: len(message.path))
    assert grown(twice) == grown(sorted(final, key=lambda message: len(message.path)))


def test_a_late_guess_is_as_good_as_one_in_time_if_the_commit_agrees() -> None:
    def tree_after(late: bool) -> dict[tuple[int, ...], dict[str, float]]:
        tree, prefix = GuessTree(len(PROMPT), Prefix(PROMPT).hash), Prefix(PROMPT)
        first, second = at([], [(1, 0.5), (2, 0.3)]), at([1], [(2, 0.9)])
        tree.merge(first, "a")
        if not late:
            assert tree.merge(second, "a") == 1
        prefix.extend([1])
        tree.advance(1, prefix.hash)
        if late:
            assert tree.merge(second, "a") == 1
        assert tree.merge(first, "a") == 0, "it is about what is final now"
        return {path_of(node): node.chances for node in tree.root.subtree() if node.parent}

    assert tree_after(late=True) == tree_after(late=False) == {(2,): {"a": 0.9}}


def test_several_backs_share_a_node_and_the_most_confident_counts() -> None:
    tree = GuessTree(len(PROMPT), Prefix(PROMPT).hash)
    tree.merge(at([], [(1, 0.5), (2, 0.4)]), "a")
    tree.merge(at([], [(2, 0.8)]), "b")
    tree.merge(at([2], [(0, 0.5)]), "b")
    assert [(path_of(n), c) for n, c in tree.best(9)] == [((2,), 0.8), ((1,), 0.5), ((2, 0), 0.4)]
    assert tree.root.children[2].chances == {"a": 0.4, "b": 0.8}
    # A back may think again.
    tree.merge(at([], [(2, 0.1)]), "b")
    assert tree.root.children[2].chance == 0.4


def test_pruning_keeps_the_likelier_half() -> None:
    tree = GuessTree(len(PROMPT), Prefix(PROMPT).hash, max_nodes=10)
    for i in range(10):
        tree.merge(at([], [(i, (i + 1) / 100)]), "a")
    assert len(tree) == 10
    tree.merge(at([9], [(0, 0.999), (1, 1e-9)]), "liar")
    assert {path_of(n) for n in tree.root.subtree()} == {(), (9,), (9, 0), (8,), (7,), (6,)}


def test_a_flood_of_garbage_does_not_crowd_out_what_is_likely() -> None:
    tree, prefix = GuessTree(len(PROMPT), Prefix(PROMPT).hash), Prefix(PROMPT)
    tree.merge(at([], [(1, 0.9)]), "honest")
    tree.merge(at([1], [(1, 0.9)]), "honest")
    for i in range(200):
        tree.merge(at([], [(t, 1e-4) for t in range(i * 50 + 10, i * 50 + 60)]), "flood")
        check(tree, prefix, MAX_NODES, 64)
    assert [path_of(n) for n, _ in tree.best(2)] == [(1,), (1, 1)]


def test_depth_is_bounded_from_the_root_as_it_moves() -> None:
    tree, prefix = GuessTree(len(PROMPT), Prefix(PROMPT).hash, max_depth=3), Prefix(PROMPT)
    taken = [tree.merge(at([0] * depth, [(0, 1.0)]), "a") for depth in range(5)]
    assert taken == [1, 1, 1, 0, 0]
    prefix.extend([0])
    tree.advance(0, prefix.hash)
    assert tree.merge(at([0] * 3, [(0, 1.0)]), "a") == 1
    check(tree, prefix, MAX_NODES, 3)


@pytest.mark.parametrize(("length", "wrong_hash"), [(4, False), (2, False), (3, True), (0, False)])
def test_length_and_hash_must_both_fit(length: int, wrong_hash: bool) -> None:
    tree = GuessTree(len(PROMPT), Prefix(PROMPT).hash)
    number = Prefix(PROMPT).hash ^ wrong_hash
    assert tree.merge(Expansion(length, number, [1], [0.5]), "a") == 0
    assert len(tree) == 0
