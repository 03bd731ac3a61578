"""What a back drafts next: a tree grown best-first, so far ahead of the target as it may.

Each draft forward expands the most probable unexpanded nodes at once (they ride in one batch), and an expansion reveals
several children, not one (SpecExec 2406.02532 and SwiftSpec 2506.11309 grow trees likewise). So while the likely
continuation is short the back extends it, and once it is deep the next best nodes are the alternatives at the places
where it is least sure, which is what is needed after a rejection.

Several backs with the same draft model would all expand the same places. So each goes by its turn: the likeliest line
is the first back's, what begins with one second guess the next one's, and so on in a circle.

Several sessions ride in one batch (`gather`): the likeliest places over all of them are expanded, each session counting
the same, so that most is drafted where most is to be gained.

The draft model's KV cache follows the tree: a node that has been expanded is a row of the engine. When the lead commits
tokens, the rows that agree become committed and the subtree below them stays; only what disagrees is read again.
"""

from __future__ import annotations

import heapq
import itertools
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from duo.draft.policy import MAX_ROWS, OTHERS, RIDERS, TREE, Cost, Policy
from duo.draft.scaling import Scale, Sharpness
from duo.draft.tree import Node, unread_path
from duo.engines.base import ROOT, Logits, Row
from duo.errors import DeadEndError, ProtocolError
from duo.guesses import ALONE, Expansion, Share
from duo.prefix import Prefix, extend_hash
from duo.sampling.params import Constraint, SamplingParams
from duo.sampling.sampler import Sampler


@dataclass(frozen=True, slots=True)
class CacheUpdate:
    """What the engine's slot is to do before the next batch: keep(path, rest), after which `committed` tokens are in
    the cache; then extend it with `missing`."""

    path: Sequence[int]
    rest: Sequence[int]
    committed: int
    missing: Sequence[int]


@dataclass(slots=True)
class Draft:
    """A back's side of one session.

    `n_ahead`: most unverified tokens in one line. `cached`: how many tokens of the session are in the engine's slot
    (of another session with the same beginning, perhaps). `cost`: seconds for a forward pass of the draft model, by
    rows. `scale` and `sharpness`: shared by all sessions, as `ids` is, where row ids come from. `context`: tokens of a
    path that the engine takes; `room`: rows that it has for this session. `eos`: tokens after which nothing is drafted,
    until the answer goes on after one. `unsayable`: tokens that are never guessed. `constraint`: what `params.grammar`
    stands for, of this draft alone.
    """

    session: int
    params: SamplingParams
    prompt_length: int
    n_ahead: int
    cost: Cost = lambda rows: 1.0 + 0.1 * rows
    scale: Scale = field(default_factory=Scale)
    sharpness: Sharpness = field(default_factory=Sharpness)
    policy: Policy = TREE
    turn: Share = ALONE
    ids: Iterator[int] = field(default_factory=itertools.count)
    eos: Collection[int] = ()
    unsayable: Collection[int] = ()
    context: int = sys.maxsize
    room: int = MAX_ROWS
    constraint: Constraint | None = None
    complete: bool = False
    """Whether all that the lead has said so far is here; drafting from a part of it would be for nothing."""
    prefix: Prefix = field(default_factory=Prefix)
    answered: int = 0
    """Tokens that became final where this back had drafted, and how many of them it had guessed."""
    guessed: int = 0
    _cached: int = 0
    _path: list[int] = field(default_factory=list)
    _above: int = ROOT
    """The row that the root hangs from, until it is kept."""
    _settled: bool = False
    """Whether the engine's cache agrees with what is committed, as far as it is to before the next batch."""
    _root: Node | None = None
    _sampler: Sampler | None = None
    _nodes: dict[int, Node] = field(default_factory=dict)
    """All that hangs from the root, and itself, by their hashes."""
    _frontier: list[tuple[float, int, Node]] = field(default_factory=list)
    _rows: int = 0
    _batch: list[Node | None] = field(default_factory=list)
    """What the rows of the batch under way stand for; None: a committed token that rides along."""

    def commit(self, start: int, tokens: Sequence[int], more: bool = False) -> None:
        """Tokens [start, start + len(tokens)) are final; what was known before may be said again.

        Raises ProtocolError if there is a gap, or if they contradict what was final before.
        """
        known = len(self.prefix)
        if start > known:
            raise ProtocolError(f"session {self.session:x}: tokens from {start} came, but only {known} are known here")
        again = self.prefix.tokens[start : start + len(tokens)]
        if again != list(tokens[: len(again)]):
            raise ProtocolError(f"session {self.session:x}: the lead took back tokens that were final")
        for token in tokens[len(again) :]:
            self._advance(token)
        self._settled = False
        self.complete = not more and len(self.prefix) >= self.prompt_length
        self._refill()

    def _advance(self, token: int) -> None:
        if self.eos and len(self.prefix) and self._ends(len(self.prefix), self.prefix.tokens[-1]):
            self.eos = ()
        self.prefix.extend([token])
        root = self._root
        child = None
        if root is not None:
            if root.row is not None:
                self._path.append(root.row)
            child = root.children.get(token)
        if root is not None and root.mine:
            guesses = list(root.children.values())
            self.scale.outcome([g.chance for g in guesses], guesses.index(child) if child is not None else None)
            if root.picks and self.sharpness.outcome(root.picks, token):
                self.scale.again()
            self.answered += 1
            self.guessed += child is not None
        self._root = child or Node(token, None, len(self.prefix), self.prefix.hash, 1.0)

    def _refill(self) -> None:
        """Rebuild the frontier below the new root, with path probabilities measured from there."""
        self._frontier.clear()
        self._nodes.clear()
        self._rows = 0
        if self._root is None:
            return
        self._root.parent = None
        ranks = self._root.ranks
        for node in self._root.subtree():
            node.ranks -= ranks
            node.path = node.chance * node.parent.path if node.parent else 1.0
            self._nodes[node.hash] = node
            self._rows += node.row is not None
            if not node.children:
                self._push(node)

    def _ends(self, length: int, last: int) -> bool:
        """Whether the answer may end with this token, at this length with the prompt, which may hold some itself."""
        return length > self.prompt_length and last in self.eos

    def _push(self, node: Node) -> None:
        assert self._root is not None
        if node.dead or node.length > self.context or (self.eos and self._ends(node.length, node.token)):
            return
        if node.path >= self.policy.floor and node.length - self._root.length < self.n_ahead:
            mine = node.ranks % self.turn.backs == self.turn.number
            heapq.heappush(self._frontier, (-node.path * (1.0 if mine else OTHERS), node.hash, node))

    def cached(self, tokens: int) -> None:
        """The engine's slot holds the first `tokens` tokens of this session and no rows of it."""
        self._cached = tokens
        self._settled = False
        self._path.clear()
        if self._root is not None:
            self._root = Node(self._root.token, None, len(self.prefix), self.prefix.hash, 1.0)
        self._refill()

    def moved(self, tokens: int) -> None:
        """The session has another slot, or none: the first `tokens` tokens are there and no rows. What has been guessed
        so far stays known; a place that is to be expanded is read with those above it."""
        self._cached = tokens
        self._settled = False
        self._path.clear()
        self.shed(0)

    def shed(self, most: int) -> None:
        """Have the engine hold so many rows at most, the likeliest, after the next `settle`."""
        if self._rows <= most:
            return
        rows = sorted((n for n in self._nodes.values() if n.row is not None), key=lambda n: (-n.path, n.length))
        for node in rows[most:]:
            node.row = None
        self._rows = most
        self._settled = False

    def settle(self, most: int) -> CacheUpdate:
        """Make the engine's cache agree with what is committed, at most `most` new tokens of it; to be carried out at
        once. Batches are for when nothing is `behind`."""
        path = list(self._path)
        self._path.clear()
        self._cached += len(path)
        self._above = ROOT
        missing = self.prefix.tokens[self._cached : -1][:most] if self.behind else []
        rest = [node.row for node in self._root.subtree() if node.row is not None] if self._root else []
        kept = CacheUpdate(path, rest, self._cached, missing)
        self._cached += len(missing)
        self._settled = not self.behind
        return kept

    @property
    def settled(self) -> bool:
        """Whether nothing has been committed since the last `settle`, and that was enough."""
        return self._settled

    @property
    def held(self) -> int:
        """Tokens of the session that are committed in the engine's slot, after `settle`."""
        return self._cached

    @property
    def unread(self) -> int:
        """Committed tokens that the engine has not read, the last one not counted."""
        return max(0, len(self.prefix) - 1 - self._cached - len(self._path))

    @property
    def behind(self) -> int:
        """How many are to be read before the next batch; a few ride along with it."""
        return self.unread if self.unread > self._riders else 0

    @property
    def _riders(self) -> int:
        """Most committed tokens that ride along. Where there is little room, some of it is left to what is drafted."""
        return min(RIDERS, self.room // 2)

    @property
    def anew(self) -> bool:
        """Whether what was committed last leads where nothing has been drafted."""
        return self._root is None or not self._root.children

    @property
    def ahead(self) -> bool:
        """Nothing left that is worth drafting before the lead commits something."""
        return not self.complete or not self._frontier or not self._room(unread_path(self._frontier[0][-1]))

    @property
    def weight(self) -> float:
        """What the likeliest place that is to be expanded counts for: its path probability, less where it is another
        back's. 0 where there is none."""
        return -self._frontier[0][0] if self._frontier else 0.0

    @property
    def next_line(self) -> int:
        """Rows that the first expansion of the next batch takes."""
        return len(unread_path(self._frontier[0][-1])) if self._frontier else 0

    def _room(self, line: Sequence[Node]) -> bool:
        """Whether the engine has room for these nodes, and the committed tokens that ride along."""
        riders = self._batch.count(None) if self._batch else min(self.unread, self._riders)
        return self._rows + riders + len(line) <= self.room

    def begin_batch(self) -> bool:
        """Begin a batch; returns whether there is anything to expand."""
        self._batch.clear()
        return not self.ahead

    def pop_line(self) -> list[Node] | None:
        """What to read for the next expansion, from above; None if there is nothing more to expand, or no room."""
        if not self._frontier:
            return None
        line = unread_path(self._frontier[0][-1])
        return line if self._room(line) else None

    def ride(self, slot: int) -> list[Row]:
        """Put the few committed tokens that have not been read into the batch."""
        rows: list[Row] = []
        for token in self.prefix.tokens[self._cached : -1] if self.unread else []:
            rows.append(Row(next(self.ids), slot, token, self._above))
            self._above = rows[-1].id
            self._path.append(self._above)
            self._batch.append(None)
            self._settled = False
        return rows

    def grow(self, line: Sequence[Node], slot: int) -> list[Row]:
        """Put what `pop_line` gave into the batch."""
        heapq.heappop(self._frontier)
        self._trim()
        return [self._read(node, slot) for node in line]

    def _read(self, node: Node, slot: int) -> Row:
        """Put a node, whose parent has been read, into the batch."""
        node.row = next(self.ids)
        self._rows += 1
        self._batch.append(node)
        parent = node.parent.row if node.parent is not None else None
        return Row(node.row, slot, node.token, self._above if parent is None else parent)

    def obsolete(self, start: int, tokens: Sequence[int]) -> bool:
        """Whether to give up the batch under way if tokens from `start` on are final: the answer goes elsewhere.

        Changes nothing.
        """
        if not self.policy.gives_up:
            return False
        if start > len(self.prefix):
            return False  # what comes before has been heard, but not been taken in yet
        top = self._root
        for token in tokens[len(self.prefix) - start :]:
            top = top.children.get(token) if top is not None else None
        expanded = {id(node) for node in self._batch}
        return bool(expanded) and (top is None or not any(id(node) in expanded for node in top.subtree()))

    def abandon(self) -> None:
        """The batch under way has been given up, and nothing of it is in the engine."""
        for node in self._batch:
            if node is None:
                self._path.pop()
            else:
                node.row = None
                self._rows -= 1
        if self._batch and self._batch[0] is None:
            self._above = ROOT
        self._batch.clear()
        self._refill()

    def absorb(self, logits: Logits) -> list[Expansion]:
        """Take in the logits of the batch just run, [rows, vocabulary]; return what they reveal, parents first."""
        if self._sampler is None:
            self._sampler = Sampler(self.params, self.prefix.tokens[: self.prompt_length], self.constraint)
        found: list[Expansion] = []
        for node, row in zip(self._batch, logits, strict=True):
            if node is None or node.children:
                continue  # read because of what follows
            so_far = self._completion(node)
            try:
                ranked = self._sampler.rank(row, so_far, self.policy.children, self.scale.value, self.sharpness.value)
            except DeadEndError:
                node.dead = True  # another's guess: the answer's grammar does not allow it
                continue
            if self.unsayable:
                ranked = [guess for guess in ranked if guess[0] not in self.unsayable]
                node.dead = not ranked
            if self.params.temperature and node.path >= Sharpness.LIKELY:
                node.picks = self._sampler.picks(row, so_far, Sharpness.CANDIDATES)
            # Judged by its chance at this place and not by its path's, which grows with every token that agrees. One
            # guess at least, or nothing would be left to draft when the answer comes here.
            ranked = ranked[:1] + [guess for guess in ranked[1:] if guess[1] >= self.policy.floor]
            node.mine = True
            found.append(Expansion(node.length, node.hash, [t for t, _ in ranked], [p for _, p in ranked]))
            self._expand(node, found[-1])
        self._batch.clear()
        return found

    def merge(self, expansion: Expansion) -> None:
        """Take in what another draft model has found, so that this one goes on from there. Where it has guessed itself,
        or knows nothing of the place, nothing happens."""
        node = self._nodes.get(expansion.hash)
        if node is not None and not node.children and node.length == expansion.length:
            self._expand(node, expansion)
            self._trim()

    def _trim(self) -> None:
        """Take from the top of the frontier what others have expanded."""
        while self._frontier and self._frontier[0][-1].children:
            heapq.heappop(self._frontier)

    def _expand(self, node: Node, expansion: Expansion) -> None:
        for rank, (token, chance) in enumerate(zip(expansion.tokens, expansion.probabilities, strict=True)):
            child = Node(token, node, node.length + 1, extend_hash(node.hash, token), chance)
            child.ranks = node.ranks + rank
            node.children[token] = child
            self._nodes[child.hash] = child
            self._push(child)

    def _completion(self, node: Node) -> list[int]:
        """The answer as it would be at `node`."""
        guessed: list[int] = []
        at: Node | None = node
        while at is not None and at.parent is not None:
            guessed.append(at.token)
            at = at.parent
        return self.prefix.tokens[self.prompt_length :] + guessed[::-1]
