"""One answer being generated: its tokens, its tree of guesses, and the rule that turns logits into tokens.

A decode step is

    nodes = the planner's choice from session.tree
    rows  = session.rows(nodes)             the last committed token and the guesses, for one forward pass
    step  = session.verify(nodes, logits)   walk down from the last token for as long as the picks were guessed

The text depends on the target's logits and the sampler alone. Guesses only decide how many tokens a step yields.

Invariant: the engine's slot holds the keys and values of all committed tokens but the last. That one is the first row
of the next forward pass.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from duo.engines.base import ROOT, Logits, Row
from duo.prefix import Prefix
from duo.sampling.logprobs import Logprobs, logprobs
from duo.sampling.params import Constraint, SamplingParams
from duo.sampling.sampler import Sampler
from lead.plan.calibration import Calibration
from lead.plan.tree import GuessTree, Node

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Committed:
    """A token that became final. `backs`: who had guessed it; empty for the target's own."""

    token: int
    backs: tuple[str, ...] = ()
    logprobs: Logprobs | None = None


@dataclass(slots=True)
class Tally:
    """Guesses that were verified, and those that were also picked."""

    drafted: int = 0
    accepted: int = 0

    def add(self, other: Tally) -> None:
        self.drafted += other.drafted
        self.accepted += other.accepted


@dataclass(frozen=True, slots=True)
class Step:
    """What one forward pass yielded. `path`: ids of the rows to keep. `rejected`: verified guesses not picked.
    `by_back`: the verified guesses of each back."""

    committed: Sequence[Committed]
    path: Sequence[int]
    drafted: Sequence[Node]
    rejected: Sequence[Node]
    by_back: Mapping[str, Tally]


@dataclass(slots=True)
class Session:
    """State of one answer. `limit`: length of prompt and completion at which it ends, at most the context.
    `top_logprobs`: of how many of the likeliest tokens log probabilities are wanted, beside the picked one's; None: not
    even of that. `constraint`: what `params.grammar` stands for, of this answer alone.

    Raises ValueError for an empty prompt or a limit that leaves no room for a token.
    """

    id: int
    prompt_length: int
    params: SamplingParams
    prefix: Prefix
    eos: Collection[int]
    limit: int
    calibration: defaultdict[str, Calibration] = field(default_factory=lambda: defaultdict(Calibration))
    slot: int = 0
    top_logprobs: int | None = None
    constraint: Constraint | None = None
    finish_reason: FinishReason | None = None
    steps: int = 0
    total: Tally = field(default_factory=Tally)
    by_back: dict[str, Tally] = field(default_factory=dict)
    tree: GuessTree = field(init=False)
    completion: list[int] = field(init=False, default_factory=list)
    _sampler: Sampler = field(init=False)

    def __post_init__(self) -> None:
        if not 0 < self.prompt_length == len(self.prefix) < self.limit:
            raise ValueError(f"a session of limit {self.limit} cannot begin with {len(self.prefix)} tokens")
        self.tree = GuessTree(len(self.prefix), self.prefix.hash, self.calibration, self.limit)
        self._sampler = Sampler(self.params, self.prefix.tokens, self.constraint)

    def rows(self, nodes: Sequence[Node], first_id: int = 0) -> list[Row]:
        """Rows for one forward pass: the last committed token, then `nodes` (parents before children)."""
        ids = {id(self.tree.root): first_id}
        rows = [Row(first_id, self.slot, self.prefix.tokens[-1], ROOT)]
        for i, node in enumerate(nodes, first_id + 1):
            assert node.parent is not None
            rows.append(Row(i, self.slot, node.token, ids[id(node.parent)]))
            ids[id(node)] = i
        return rows

    def verify(self, nodes: Sequence[Node], logits: Logits, first_id: int = 0) -> Step:
        """Commit what the target picks, down the tree for as long as the picks are among `nodes`.

        `logits` [1 + len(nodes), vocabulary]: the rows of `rows(nodes)`, in their order. Raises DeadEndError if
        the answer's grammar has become too complex to follow; nothing more can be done with the session then.
        """
        index = {id(node): i for i, node in enumerate(nodes, 1)}
        node: Node | None = self.tree.root
        path = [first_id]
        committed: list[Committed] = []
        at = 0
        while node is not None and self.finish_reason is None:
            token = self._sampler.pick(logits[at], self.completion)
            guess = node.children.get(token)
            row = index.get(id(guess))
            backs = tuple(guess.chances) if guess is not None and row is not None else ()
            chances = logprobs(logits[at], token, self.top_logprobs) if self.top_logprobs is not None else None
            committed.append(Committed(token, backs, chances))
            self.completion.append(token)
            if token in self.eos:
                self.finish_reason = "stop"
            elif self.prompt_length + len(self.completion) >= self.limit:
                self.finish_reason = "length"
            node = guess if row is not None else None
            if row is not None and self.finish_reason is None:
                path.append(first_id + row)
                at = row
        rejected, by_back = self._count(nodes, committed)
        for done in committed:
            self.prefix.extend([done.token])
            self.tree.advance(done.token, self.prefix.hash)
        self.steps += 1
        return Step(committed, path, nodes, rejected, by_back)

    def _count(self, nodes: Sequence[Node], committed: Sequence[Committed]) -> tuple[list[Node], Mapping[str, Tally]]:
        """Add the verified guesses to the totals. Returns those that were not picked, and the tally of each back."""
        picked: set[int] = set()
        node: Node | None = self.tree.root
        for done in committed:
            node = node.children.get(done.token) if node is not None and done.backs else None
            picked.add(id(node))
        rejected = [n for n in nodes if id(n) not in picked]
        self.total.drafted += len(nodes)
        self.total.accepted += len(nodes) - len(rejected)
        by_back: dict[str, Tally] = {}
        for n in nodes:
            for back in n.chances:
                tally = by_back.setdefault(back, Tally())
                tally.drafted += 1
                tally.accepted += id(n) in picked
        for back, tally in by_back.items():
            self.by_back.setdefault(back, Tally()).add(tally)
        return rejected, by_back
