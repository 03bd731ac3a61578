"""The draft model's own tree of guesses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from duo.prefix import extend_hash


class Node:
    """A place: a token that may come, after those above it. It is expanded once a model has guessed what follows.

    `length` and `hash` name the prefix that ends with this token. `chance`: of this token, given those above it.
    `path`: of all tokens from the root to here.
    """

    __slots__ = (
        "chance", "children", "dead", "foreseen", "hash", "length", "mine", "parent", "path", "picks", "ranks", "row",
        "token",
    )  # fmt: skip

    def __init__(self, token: int, parent: Node | None, length: int, prefix_hash: int, chance: float) -> None:
        self.token = token
        self.parent = parent
        self.length = length
        self.hash = prefix_hash
        self.chance = chance
        self.path: float = chance * parent.path if parent else 1.0
        self.ranks = 0
        """Sum of the ranks of the guesses on the path: 0 for the likeliest line."""
        self.row: int | None = None
        """Its row in the engine, once it has been read."""
        self.dead = False
        """Nothing can follow."""
        self.mine = False
        """This model made the guesses that follow, and not another one."""
        self.picks: Sequence[int] = ()
        """What each candidate of `Sharpness` guesses next."""
        self.children: dict[int, Node] = {}
        self.foreseen = False
        """Text that is known has this token here. No model has guessed it."""

    @property
    def expanded(self) -> bool:
        """Whether a model has guessed what follows."""
        return any(not child.foreseen for child in self.children.values())

    @property
    def open_share(self) -> float:
        """The probability that something follows which is not guessed yet, of a place that is not expanded."""
        return max(0.0, 1.0 - sum(child.chance for child in self.children.values())) if self.children else 1.0

    def grow(self, token: int, chance: float, rank: int) -> Node:
        """A new child. `rank`: of the guess among those for this place."""
        child = self.children[token] = Node(token, self, self.length + 1, extend_hash(self.hash, token), chance)
        child.ranks = self.ranks + rank
        return child

    def subtree(self) -> Iterator[Node]:
        """This node and all below it, parents before children."""
        stack = [self]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())


def unread_path(node: Node) -> list[Node]:
    """The node and those above it that the engine has not read, top first."""
    line: list[Node] = []
    at: Node | None = node
    while at is not None and at.row is None:
        line.append(at)
        at = at.parent
    return line[::-1]
