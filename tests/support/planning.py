"""Short forms for tests of planning."""

from __future__ import annotations

from duo.guesses import Expansion
from duo.prefix import EMPTY, extend_hash
from lead.plan.speculation import Action, Wait
from lead.plan.tree import GuessTree, Place

FLAT = {1: 0.1, 16: 0.1}


def line(*chances: float) -> GuessTree:
    """A tree with one line of guesses."""
    tree, prefix_hash = GuessTree(0, EMPTY), EMPTY
    for length, chance in enumerate(chances):
        assert tree.merge(Expansion(length, prefix_hash, [7], [chance]), "one") == 1
        prefix_hash = extend_hash(prefix_hash, 7)
    return tree


def limited(tree: GuessTree, limit: int) -> GuessTree:
    """The tree of an answer that ends at this length."""
    tree.limit = limit
    return tree


def waits(action: Action) -> float:
    """Seconds that it waits for guesses."""
    return action.seconds if isinstance(action, Wait) else 0.0


def guessed(*chances: float, path: float = 1.0) -> Place:
    return Place(path, Expansion(0, EMPTY, list(range(len(chances))), list(chances)))
