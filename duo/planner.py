"""Which guesses to verify in the next forward pass.

Nodes are taken in order of falling path probability, a set that is always closed under parents. How many is bounded by
what a verified guess costs beside what it may save: a guess below `floor` is left out.
"""

from __future__ import annotations

from duo.tree import GuessTree, Node

DRAFT_MAX = 8
FLOOR = 0.08
"""On a CPU one more row costs roughly 4 to 8 per cent of a forward pass; a guess less likely than that does not pay."""


def choose(
    tree: GuessTree, draft_max: int = DRAFT_MAX, length_below: int | None = None, chain: bool = False
) -> list[Node]:
    """At most `draft_max` nodes for the next forward pass, parents first; none of `length_below` tokens or more.

    chain: one line only, the likeliest token at each place.
    """
    nodes = [node for node, _ in tree.best(draft_max, FLOOR, length_below)]
    if not chain:
        return nodes
    line: list[Node] = []
    for node in nodes:
        if node.parent is (line[-1] if line else tree.root):
            line.append(node)
    return line
