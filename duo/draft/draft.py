"""What a back drafts next in one session: a tree that grows at its likeliest places.

A forward pass of the draft model expands the likeliest unexpanded places at once, and an expansion gives several
guesses, not one. SpecExec (2406.02532) and SwiftSpec (2506.11309) grow their trees likewise. While the likely
continuation is short, the back extends it. Once it is deep, the next best places are the alternatives where the draft
is least sure, and those are needed after a rejection.

Several backs with the same draft model would expand the same places. So each has a share: the likeliest line belongs to
the first back, what begins with one second guess to the next one, and so on in a circle.

The draft model's KV cache follows the tree: an expanded place is a row of the engine. When the lead commits tokens, the
rows that agree become committed and the subtree below them stays. Only what disagrees is read again.
"""

from __future__ import annotations

import heapq
import itertools
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from duo.draft.policy import MAX_RIDERS, MAX_ROWS, OTHERS_WEIGHT, TREE, Cost, Policy
from duo.draft.scaling import Scale, Sharpness
from duo.draft.tree import Node, unread_path
from duo.engines.base import ROOT, Logits, Row
from duo.errors import DeadEndError, ProtocolError
from duo.guesses import ALONE, Expansion, Share
from duo.prefix import Prefix, extend_hash
from duo.sampling.params import Constraint, SamplingParams
from duo.sampling.sampler import Sampler

MIN_FORESEEN = 0.5
"""Known text is followed while its next token is at least so likely."""


@dataclass(frozen=True, slots=True)
class CacheUpdate:
    """What to do with the engine's slot before the next batch: commit(path, rest), then extend it with `missing`."""

    path: Sequence[int]
    rest: Sequence[int]
    missing: Sequence[int]


@dataclass(slots=True)
class Draft:
    """A back's side of one session.

    The caller commits tokens, updates the cache until there is no `backlog`, begins a batch, runs its rows, and gives
    the logits to `absorb`. A batch that was given up ends with `abandon`.
    """

    session: int
    params: SamplingParams
    prompt_length: int
    n_ahead: int
    """Unverified tokens in one line, at most."""
    cost: Cost
    """Of the draft model."""
    scale: Scale = field(default_factory=Scale)
    """All sessions share it, as they share `sharpness` and `ids`."""
    sharpness: Sharpness = field(default_factory=Sharpness)
    policy: Policy = TREE
    share: Share = ALONE
    ids: Iterator[int] = field(default_factory=itertools.count)
    """Where row ids come from."""
    eos: Collection[int] = ()
    """Nothing is drafted after one of these tokens, until the answer goes on after one."""
    unsayable: Collection[int] = ()
    """Tokens that are never guessed."""
    context: int = sys.maxsize
    """Tokens of a path that the engine takes."""
    capacity: int = MAX_ROWS
    """Rows that the engine has for this session."""
    constraint: Constraint | None = None
    """Compiled from `params.grammar`, for this draft alone."""
    complete: bool = False
    """All that the lead has said is here. Drafting from a part of it would be useless."""
    prefix: Prefix = field(default_factory=Prefix)
    answered: int = 0
    """Tokens that were committed where this draft had guesses."""
    guessed: int = 0
    """Those among them that it had guessed."""
    cached_tokens: int = field(default=0, init=False)
    """Tokens of the session that are committed in the engine's slot, as of the last `update_cache`."""
    root: Node | None = field(default=None, init=False)
    """The last committed token."""
    rows: int = field(default=0, init=False)
    """Places that are rows of the engine."""
    batch: list[Node | None] = field(default_factory=list, init=False)
    """What the rows of the batch under way stand for; None: a committed token that rides along."""
    sampler: Sampler | None = field(default=None, init=False)
    """Made with the first logits, when the prompt is complete."""
    cache_current: bool = field(default=False, init=False)
    """The last `update_cache` is not outdated and left no backlog."""
    _path: list[int] = field(default_factory=list, init=False)
    """Rows that the next `update_cache` commits."""
    _above: int = field(default=ROOT, init=False)
    """The row above the root, until it is committed."""
    nodes: dict[int, Node] = field(default_factory=dict, init=False)
    """The root and all below it, by their hashes."""
    _frontier: list[tuple[float, int, Node]] = field(default_factory=list, init=False)
    """The places to expand: a heap with the greatest weight on top."""

    def commit(self, start: int, tokens: Sequence[int], more: bool = False) -> None:
        """Tokens [start, start + len(tokens)) are final. Tokens that are known may be repeated.

        Raises ProtocolError for a gap, or if they contradict what was final before.
        """
        known = len(self.prefix)
        if start > known:
            raise ProtocolError(f"session {self.session:x}: tokens from {start} came, but only {known} are known here")
        again = self.prefix.tokens[start : start + len(tokens)]
        if again != list(tokens[: len(again)]):
            raise ProtocolError(f"session {self.session:x}: the lead took back tokens that were final")
        for token in tokens[len(again) :]:
            self._advance(token)
        self.cache_current = False
        self.complete = not more and len(self.prefix) >= self.prompt_length
        self._refill()

    def _advance(self, token: int) -> None:
        if self.eos and len(self.prefix) and self._ends(len(self.prefix), self.prefix.tokens[-1]):
            self.eos = ()
        self.prefix.extend([token])
        root = self.root
        child = None
        if root is not None:
            if root.row is not None:
                self._path.append(root.row)
            child = root.children.get(token)
        if root is not None and root.mine:
            guesses = [guess for guess in root.children.values() if not guess.foreseen]
            self.scale.outcome([g.chance for g in guesses], guesses.index(child) if child in guesses else None)
            if root.picks and self.sharpness.outcome(root.picks, token):
                self.scale.restart()
            self.answered += 1
            self.guessed += child is not None
        self.root = child or Node(token, None, len(self.prefix), self.prefix.hash, 1.0)

    def _refill(self) -> None:
        """Rebuild the frontier below the new root, with path probabilities measured from there."""
        self._frontier.clear()
        self.nodes.clear()
        self.rows = 0
        if self.root is None:
            return
        self.root.parent = None
        ranks = self.root.ranks
        for node in self.root.subtree():
            node.ranks -= ranks
            node.path = node.chance * node.parent.path if node.parent else 1.0
            self.nodes[node.hash] = node
            self.rows += node.row is not None
        self._order()

    def _ends(self, length: int, last: int) -> bool:
        """Whether this token ends the answer. `length` includes the prompt, where such a token ends nothing."""
        return length > self.prompt_length and last in self.eos

    def _is_last(self, node: Node) -> bool:
        """Whether nothing is drafted after this place."""
        return node.dead or node.length > self.context or bool(self.eos and self._ends(node.length, node.token))

    def _push(self, node: Node) -> None:
        assert self.root is not None
        if self._is_last(node):
            return
        if node.path >= self.policy.floor and node.length - self.root.length < self.n_ahead:
            mine = node.ranks % self.share.backs == self.share.number
            weight = node.path * node.open_share * (1.0 if mine else OTHERS_WEIGHT)
            heapq.heappush(self._frontier, (-weight, node.hash, node))

    def forget_guesses(self) -> None:
        """Begin a new tree. The draft must hold no rows."""
        if self.root is not None:
            self.root = Node(self.root.token, None, len(self.prefix), self.prefix.hash, 1.0)
        self._refill()

    def change_slot(self, cached_tokens: int) -> None:
        """The session has another slot, or none, with its first `cached_tokens` tokens and without rows.

        The guesses stay known. To expand a place, those above it are read again.
        """
        self.cached_tokens = cached_tokens
        self.cache_current = False
        self._path.clear()
        self.trim_rows(0)

    def trim_rows(self, max_rows: int) -> None:
        """Keep the likeliest rows. The engine drops the others with the next `update_cache`."""
        if self.rows <= max_rows:
            return
        rows = sorted((n for n in self.nodes.values() if n.row is not None), key=lambda n: (-n.path, n.length))
        for node in rows[max_rows:]:
            node.row = None
        self.rows = max_rows
        self.cache_current = False

    def update_cache(self, max_tokens: int) -> CacheUpdate:
        """The changes that make the slot agree with what is committed, with at most `max_tokens` new tokens.

        Carry them out at once, and begin a batch only when there is no `backlog`.
        """
        path = list(self._path)
        self._path.clear()
        self.cached_tokens += len(path)
        self._above = ROOT
        missing = self.prefix.tokens[self.cached_tokens : -1][:max_tokens] if self.backlog else []
        rest = [node.row for node in self.root.subtree() if node.row is not None] if self.root else []
        self.cached_tokens += len(missing)
        self.cache_current = not self.backlog
        return CacheUpdate(path, rest, missing)

    @property
    def unread(self) -> int:
        """Committed tokens that the engine has not read, without the last one."""
        return max(0, len(self.prefix) - 1 - self.cached_tokens - len(self._path))

    @property
    def backlog(self) -> int:
        """Tokens to read before the next batch. A few ride along with it and are no backlog."""
        return self.unread if self.unread > self._max_riders else 0

    @property
    def _max_riders(self) -> int:
        """Committed tokens in a batch. At a small capacity they leave half of it for guesses."""
        return min(MAX_RIDERS, self.capacity // 2)

    @property
    def unguessed(self) -> bool:
        """There is no guess for the next token."""
        return self.root is None or not self.root.children

    @property
    def idle(self) -> bool:
        """There is nothing to expand until the lead commits something."""
        return not self.complete or not self._frontier or not self._fits(unread_path(self._frontier[0][-1]))

    @property
    def weight(self) -> float:
        """Of the first place to expand: its path probability, less in another back's share; 0 if there is none."""
        return -self._frontier[0][0] if self._frontier else 0.0

    @property
    def next_rows(self) -> int:
        """Rows that the first expansion of the next batch takes."""
        return len(unread_path(self._frontier[0][-1])) if self._frontier else 0

    def _fits(self, line: Sequence[Node]) -> bool:
        """Whether the engine has room for these places and the committed tokens that ride along."""
        riders = self.batch.count(None) if self.batch else min(self.unread, self._max_riders)
        return self.rows + riders + len(line) <= self.capacity

    def begin_batch(self) -> bool:
        """Returns whether there is anything to expand."""
        self.batch.clear()
        return not self.idle

    def next_line(self) -> list[Node] | None:
        """The places to read for the next expansion, top first; None if there is none or no room."""
        if not self._frontier:
            return None
        line = unread_path(self._frontier[0][-1])
        return line if self._fits(line) else None

    def add_riders(self, slot: int) -> list[Row]:
        """Put the few committed tokens that were not read into the batch."""
        rows: list[Row] = []
        for token in self.prefix.tokens[self.cached_tokens : -1] if self.unread else []:
            rows.append(Row(next(self.ids), slot, token, self._above))
            self._above = rows[-1].id
            self._path.append(self._above)
            self.batch.append(None)
            self.cache_current = False
        return rows

    def add_line(self, line: Sequence[Node], slot: int) -> list[Row]:
        """Put what `next_line` returned into the batch."""
        heapq.heappop(self._frontier)
        self._drop_expanded()
        return [self._read(node, slot) for node in line]

    def _read(self, node: Node, slot: int) -> Row:
        """Put a place into the batch. Its parent is a row already."""
        node.row = next(self.ids)
        self.rows += 1
        self.batch.append(node)
        parent = node.parent.row if node.parent is not None else None
        return Row(node.row, slot, node.token, self._above if parent is None else parent)

    def obsolete(self, start: int, tokens: Sequence[int]) -> bool:
        """Whether the batch under way is useless if tokens from `start` on are final. Changes nothing."""
        if not self.policy.gives_up:
            return False
        if start > len(self.prefix):
            return False  # an earlier commit waits in the queue
        top = self.root
        for token in tokens[len(self.prefix) - start :]:
            top = top.children.get(token) if top is not None else None
        expanded = {id(node) for node in self.batch}
        return bool(expanded) and (top is None or not any(id(node) in expanded for node in top.subtree()))

    def abandon(self) -> None:
        """The batch under way was given up: none of its rows is in the engine."""
        for node in self.batch:
            if node is None:
                self._path.pop()
            else:
                node.row = None
                self.rows -= 1
        if self.batch and self.batch[0] is None:
            self._above = ROOT
        self.batch.clear()
        self._refill()

    def absorb(self, logits: Logits) -> list[Expansion]:
        """Take in the logits of the batch, [rows, vocabulary]. Returns the new expansions, parents first."""
        if self.sampler is None:
            self.sampler = Sampler(self.params, self.prefix.tokens[: self.prompt_length], self.constraint)
        found: list[Expansion] = []
        for node, row in zip(self.batch, logits, strict=True):
            if node is None or node.expanded:
                continue  # read for the sake of what follows
            if (expansion := self._guess(self.sampler, node, row)) is not None:
                node.mine = True
                found.append(expansion)
                self._expand(node, expansion)
        self.batch.clear()
        self._drop_expanded()
        return found

    def _guess(self, sampler: Sampler, node: Node, row: Logits) -> Expansion | None:
        """The guesses for what follows `node`; None where the answer's grammar does not allow it."""
        so_far = self._completion(node)
        try:
            ranked = sampler.rank(row, so_far, self.policy.children, self.scale.value, self.sharpness.value)
        except DeadEndError:
            node.dead = True  # another model's guess
            return None
        if self.unsayable:
            ranked = [guess for guess in ranked if guess[0] not in self.unsayable]
            node.dead = not ranked
        if self.params.temperature and node.path >= Sharpness.MIN_PATH:
            node.picks = sampler.picks(row, so_far, Sharpness.CANDIDATES)
        # The floor is for the guess itself and not for its path, whose probability grows with each agreed token. One
        # guess always stays, or nothing would be left to draft from when the answer comes here.
        ranked = ranked[:1] + [guess for guess in ranked[1:] if guess[1] >= self.policy.floor]
        return Expansion(node.length, node.hash, [t for t, _ in ranked], [p for _, p in ranked])

    def merge(self, expansion: Expansion) -> None:
        """Take in another model's guesses, to go on from there. Ignored at places that are unknown or expanded."""
        node = self.nodes.get(expansion.hash)
        if node is not None and not node.expanded and node.length == expansion.length:
            self._expand(node, expansion)
            self._drop_expanded()

    def foresee(self, found: Iterable[Expansion]) -> None:
        """Known text goes on like this. One forward pass reads all of it, and guesses at each place and at the end."""
        for expansion in found:
            node = self.nodes.get(expansion.hash)
            if node is None or node.length != expansion.length or self._is_last(node):
                continue
            token, chance = expansion.tokens[0], expansion.probabilities[0]
            if chance >= MIN_FORESEEN and token not in node.children and token not in self.unsayable:
                child = self.nodes[extend_hash(node.hash, token)] = node.grow(token, chance, 0)
                child.foreseen = True
        self._order()

    def _order(self) -> None:
        """Order the frontier anew."""
        self._frontier.clear()
        for node in self.nodes.values():
            if not node.expanded:
                self._push(node)

    def _drop_expanded(self) -> None:
        """Remove places that another model has expanded from the top of the frontier."""
        while self._frontier and self._frontier[0][-1].expanded:
            heapq.heappop(self._frontier)

    def _expand(self, node: Node, expansion: Expansion) -> None:
        for rank, (token, chance) in enumerate(zip(expansion.tokens, expansion.probabilities, strict=True)):
            child = node.children.get(token)
            if child is not None:  # known text has it too, and it may be in the frontier
                child.foreseen, child.chance = False, chance
                continue
            child = node.grow(token, chance, rank)
            self.nodes[child.hash] = child
            self._push(child)

    def _completion(self, node: Node) -> list[int]:
        """The answer as it would be at `node`."""
        guessed: list[int] = []
        at: Node | None = node
        while at is not None and at.parent is not None:
            guessed.append(at.token)
            at = at.parent
        return self.prefix.tokens[self.prompt_length :] + guessed[::-1]
