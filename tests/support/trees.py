"""What must hold of every draft tree."""

from __future__ import annotations

from duo.prefix import Prefix, extend_hash
from lead.plan.tree import GuessTree


def check(tree: GuessTree, prefix: Prefix, max_nodes: int, max_depth: int) -> None:
    """Check all that holds for a tree at any time."""
    nodes = list(tree.root.subtree())
    assert tree.root.parent is None
    assert (tree.root.length, tree.root.hash) == (len(prefix), prefix.hash)
    assert len(tree) == len(nodes) - 1 <= max_nodes
    assert tree._by_hash == {node.hash: node for node in nodes}
    for node in nodes:
        assert node.length - tree.root.length <= max_depth
        for token, child in node.children.items():
            assert child.parent is node
            assert child.token == token
            assert (child.length, child.hash) == (node.length + 1, extend_hash(node.hash, token))
            assert child.chances
            assert all(0.0 <= chance <= 1.0 for chance in child.chances.values())
    check_best(tree)


def check_best(tree: GuessTree) -> None:
    reached = {id(tree.root): 1.0}
    for node in tree.root.subtree():
        if node.parent is not None:
            reached[id(node)] = reached[id(node.parent)] * node.chance
    everything = tree.best(10**6)
    assert {id(node): chance for node, chance in everything} == {
        key: chance for key, chance in reached.items() if chance > 0.0 and key != id(tree.root)
    }
    assert [c for _, c in everything] == sorted((c for _, c in everything), reverse=True)
    seen = {id(tree.root)}
    for node, _ in everything:
        assert id(node.parent) in seen, "parents come first"
        seen.add(id(node))
    for count in (0, 1, 3):
        assert tree.best(count) == everything[:count]
    assert tree.best(10**6, floor=0.3) == [(n, c) for n, c in everything if c >= 0.3]
    below = tree.root.length + 3
    assert tree.best(10**6, length_below=below) == [(n, c) for n, c in everything if n.length < below]
