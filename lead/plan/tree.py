"""The lead's tree of guesses for one session, rooted at the committed prefix.

The guesses of all sources merge into it: of backs, of the draft model beside the target, of memory. A guess names the
prefix that it continues, by length and hash. So late, repeated and reordered guesses do no harm: the tree has the
prefix, or the guess is dropped. A commit moves the root along the committed tokens, and the agreeing subtree stays.

Backs are not trusted. The tree is bounded in nodes and depth, and a wrong claim can only cost time.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import NamedTuple

from duo.guesses import Expansion
from duo.prefix import extend_hash
from lead.plan.calibration import Calibration

MAX_NODES = 1024
MAX_DEPTH = 64


class Place(NamedTuple):
    """A prefix with guesses. `path`: the probability that the answer gets there."""

    path: float
    guesses: Expansion


class Node:
    """One guessed token. `length` and `hash`: of the whole prefix that ends with it."""

    __slots__ = ("chance", "chances", "children", "expanded", "hash", "length", "parent", "remembered", "token")

    def __init__(self, token: int, parent: Node | None, length: int, prefix_hash: int) -> None:
        self.token = token
        self.parent = parent
        self.length = length
        self.hash = prefix_hash
        self.children: dict[int, Node] = {}
        self.chances: dict[str, float] = {}
        """By source: the probability that it claims for this token, given the parent."""
        self.chance = 0.0
        """Probability of this token, given its parent: the best of the calibrated claims."""
        self.expanded = False
        """Whether a model has said what may follow. Guesses without a model leave room for its own."""
        self.remembered = False
        """Whether a source without a model has guessed it."""

    @property
    def open_share(self) -> float:
        """The probability that something follows which a model might still guess."""
        return 0.0 if self.expanded else max(0.0, 1.0 - sum(child.chance for child in self.children.values()))

    def subtree(self) -> Iterator[Node]:
        """This node and all below it, parents before children."""
        stack = [self]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())


def _guesses(node: Node) -> Expansion:
    return Expansion(node.length, node.hash, list(node.children), [child.chance for child in node.children.values()])


_chance = attrgetter("chance")


class GuessTree:
    """Guesses for one session. One thread uses it."""

    def __init__(
        self,
        length: int,
        prefix_hash: int,
        calibration: defaultdict[str, Calibration] | None = None,
        limit: int | None = None,
        max_nodes: int = MAX_NODES,
        max_depth: int = MAX_DEPTH,
    ) -> None:
        """`calibration`: by source, shared by all sessions. The tree also teaches it. `limit`: the length of prefix at
        which the answer ends; guesses of that length or more are of no use."""
        self._calibration = defaultdict(Calibration) if calibration is None else calibration
        self.limit = limit
        self.root = Node(-1, None, length, prefix_hash)
        self.by_hash = {prefix_hash: self.root}
        """All nodes, by the hash of their prefixes."""
        self._max_nodes = max_nodes
        self._max_depth = max_depth

    def __len__(self) -> int:
        """Number of guesses held."""
        return len(self.by_hash) - 1

    def merge(self, expansion: Expansion, source: str, model: bool = True) -> int:
        """Take in one expansion. Returns how many of its tokens the tree has now; 0 if it lacks the prefix.

        `model`: whether a model made it, so that other models have little to add.
        """
        anchor = self.by_hash.get(expansion.hash)
        if anchor is None or anchor.length != expansion.length:
            return 0
        if anchor.length - self.root.length >= self._max_depth:
            return 0
        taken, calibration = 0, self._calibration[source]
        for token, claimed in zip(expansion.tokens, expansion.probabilities, strict=False):
            chance = min(1.0, max(0.0, claimed)) if math.isfinite(claimed) else 0.0
            child = anchor.children.get(token)
            if child is None:
                child_hash = extend_hash(anchor.hash, token)
                if child_hash in self.by_hash:
                    continue
                child = Node(token, anchor, anchor.length + 1, child_hash)
                anchor.children[token] = child
                self.by_hash[child_hash] = child
            child.chances[source] = chance
            child.remembered |= not model
            if len(child.chances) == 1:
                child.chance = calibration.chance(chance)
            else:
                child.chance = max(self._calibration[source].chance(claim) for source, claim in child.chances.items())
            taken += 1
        anchor.expanded |= model and taken > 0
        if len(self) > self._max_nodes:
            self._prune()
        return taken

    def place(self, prefix_hash: int) -> Place | None:
        """The guesses after this prefix; None if no model has made any."""
        node = self.by_hash.get(prefix_hash)
        if node is None or not node.expanded:
            return None
        path, at = 1.0, node
        while at.parent is not None:
            path, at = path * at.chance, at.parent
        return Place(path, _guesses(node))

    def learn(self, expansions: Iterable[Expansion], source: str) -> list[Place]:
        """Merge expansions of a model. Returns the places that had none before."""
        new: list[Place] = []
        for expansion in expansions:
            node = self.by_hash.get(expansion.hash)
            known = node is not None and node.expanded
            if self.merge(expansion, source) and not known and (place := self.place(expansion.hash)) is not None:
                new.append(place)
        return new

    def known(self) -> list[Expansion]:
        """What models have guessed, parents before children."""
        return [_guesses(node) for node in self.root.subtree() if node.expanded]

    def advance(self, token: int, prefix_hash: int) -> None:
        """Commit one token. Its node becomes the root; without one, the tree starts empty."""
        for child in self.root.children.values():
            for source, claim in child.chances.items():
                self._calibration[source].outcome(claim, child.token == token)
        root = self.root.children.pop(token, None)
        if root is None:
            root = Node(-1, None, self.root.length + 1, prefix_hash)
            self.by_hash = {prefix_hash: root}
        else:
            for node in self.root.subtree():
                del self.by_hash[node.hash]
            root.parent = None
        self.root = root

    def best(self, count: int, floor: float = 0.0, of_models: int | None = None) -> list[tuple[Node, float]]:
        """The `count` likeliest nodes with their path probabilities, falling, none below `floor` or beyond the limit.

        At most `of_models` of them are guesses of models alone; None: any number. Parents come before their children,
        because probability only falls along a path.
        """
        left = count if of_models is None else of_models
        chosen: list[tuple[Node, float]] = []
        order = 0
        heap: list[tuple[float, int, Node]] = [(-1.0, 0, self.root)]
        while heap and len(chosen) < count:
            negative, _, node = heapq.heappop(heap)
            if node is not self.root:
                if not node.remembered:
                    if not left:
                        continue
                    left -= 1
                chosen.append((node, -negative))
            if self.limit is not None and node.length + 1 >= self.limit:
                continue
            for child in node.children.values():
                path = -negative * child.chance
                if path > 0.0 and path >= floor:
                    order += 1
                    heapq.heappush(heap, (-path, order, child))
        return chosen

    def chain(self, count: int, floor: float = 0.0, of_models: int | None = None) -> list[tuple[Node, float]]:
        """The likeliest child at each place from the root down, with path probabilities and bounds as in `best`.

        For models that cannot verify trees.
        """
        left = count if of_models is None else of_models
        line: list[tuple[Node, float]] = []
        node, path = self.root, 1.0
        while node.children and len(line) < count and self.useful_below(node):
            node = max(node.children.values(), key=_chance)
            path *= node.chance
            left -= not node.remembered
            if path <= 0.0 or path < floor or left < 0:
                break
            line.append((node, path))
        return line

    def useful_below(self, node: Node) -> bool:
        """Whether the answer may go on after a guess that follows this node."""
        return self.limit is None or node.length + 1 < self.limit

    def _prune(self) -> None:
        """Keep the likelier half, so that pruning is rare."""
        kept = {id(node) for node, _ in self.best(self._max_nodes // 2)}
        for node in list(self.root.subtree()):
            if node is self.root or id(node) in kept:
                node.children = {token: child for token, child in node.children.items() if id(child) in kept}
                node.expanded &= bool(node.children)
            else:
                del self.by_hash[node.hash]
