"""Short forms for tests of planning."""

from __future__ import annotations

from duo.engines.cost import CostCurve
from duo.guesses import Expansion
from duo.prefix import EMPTY, extend_hash
from lead.plan.arrivals import DraftOffer
from lead.plan.limits import Limits
from lead.plan.planner import Planner
from lead.plan.speculation import Action, Expand, Wait
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


STEEP = {1: 0.0368, 2: 0.102, 4: 0.130, 8: 0.179, 16: 0.291}
"""llama.cpp's Q8_0 on a CPU: two rows cost nearly three times one."""


def nothing() -> list[GuessTree]:
    """One answer, of which nothing has been guessed."""
    return [GuessTree(0, EMPTY)]


def settled(curve: dict[int, float], rate: float, limits: Limits | None = None) -> Planner:
    """A planner that has seen `rate` tokens per second for a while, one row a step."""
    it = Planner(CostCurve(curve), limits or Limits())
    it.skipped(0.0)
    for step in range(1, 100):
        it.finished(step * 1.0, 1, curve[1], rate)
    return it


def regular(gap: float, curve: dict[int, float] | None = None) -> Planner:
    """A target alone, and a back whose first guess comes `gap` seconds after each commit, and the next as often.

    The last commit is at 140 times the target's step.
    """
    step = (curve or FLAT)[1]
    it = settled(curve or FLAT, 1 / step)
    for number in range(100, 140):
        it.finished(number * step, 1, step, 1)
        it.next(nothing(), number * step)
        for message in (1, 2, 3):
            it.heard(number * step + message * gap, "one", [guessed(0.8, 0.1)])
    it.finished(140 * step, 1, step, 1)
    return it


def expands_now(it: Planner) -> None:
    """The draft model beside the target has just had its turn."""
    assert isinstance(it.next(nothing(), 14.0, DraftOffer(0.0, 0.0)), Expand)
