"""Schedules of the same two models that need no lead: synchronous speculation, and drafts that are free.

Synchronous speculation is done as well as it can be with our own parts. So what ours is measured against differs from
it in the schedule alone. Engines, coupled sampling and the check of a guess are the same, and so is the acceptance. The
draft model runs once per guess, and what its cache lacks rides along in the first of these passes.

The bounds are the lead's own loop, with the planner that chooses what to verify, but guesses are there at once: the
clock stands still while they are made. And synchronous speculation whose drafts are free, at its best draft length: it
says what the planner's choice is worth.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from duo.draft.batch import next_batch
from duo.draft.draft import Draft
from duo.draft.policy import CHAIN, TREE, Policy
from duo.draft.scaling import Scale, Sharpness
from duo.engines import ROOT, Engine, Row
from duo.guesses import Expansion
from duo.prefix import Prefix, common_length
from duo.sampling.params import SamplingParams
from duo.sampling.sampler import Sampler
from lead.decode.session import Session
from lead.plan.calibration import Calibration
from lead.plan.planner import Planner
from lead.plan.schedule import Growing
from lead.plan.tree import Node

SLOT = 0
AHEAD = 16
"""Tokens that free drafts are ahead, and the rows of their tree at most."""
FREE_ROWS = 64

Chain = list[tuple[int, float]]
"""Guessed tokens, each with the probability that it is right if those before it are."""


class Drafts(Protocol):
    """Where chains of guesses come from: a draft model here, or one in another process."""

    def begin(self, prompt: Sequence[int], params: SamplingParams) -> None:
        """Read the prompt."""
        ...

    def chain(self, start: int, tokens: Sequence[int], length: int, floor: float) -> Chain:
        """Guesses after the answer so far: `tokens` are its tokens from place `start` (prompt included) on.

        At most `length`, and none after the path to it is less probable than `floor`.
        """
        ...


class ChainDraft:
    """A draft model that guesses one token after another."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._cached: list[int] = []
        self._tokens: list[int] = []
        self._guessed: Chain = []
        self._prompt_length = 0
        self._sampler = Sampler(SamplingParams(), [])
        self._sharpness = Sharpness()
        self._picks: list[list[int]] = []
        """For each guess, what it would have been by each candidate of the sharpness."""

    def forget(self) -> None:
        """Somebody else has used the model: what is in its cache is not known any more."""
        self._cached = []

    def begin(self, prompt: Sequence[int], params: SamplingParams) -> None:
        self._tokens = list(prompt)
        self._prompt_length = len(prompt)
        self._sampler = Sampler(params, prompt)
        self._guessed = []
        read_prompt(self._engine, self._cached, self._tokens)
        self._cached = self._tokens[:-1]

    def chain(self, start: int, tokens: Sequence[int], length: int, floor: float) -> Chain:
        self._tokens[start:] = tokens
        self._learn(tokens)
        shared = min(common_length(self._cached, self._tokens), len(self._tokens) - 1)
        if shared < len(self._cached):
            self._engine.truncate(SLOT, shared)
        feed, ids = self._tokens[shared:], 0
        path, chain, kept = 1.0, Chain(), list[int]()
        self._picks = []
        completion = self._tokens[self._prompt_length :]
        while len(chain) < length and path >= floor:
            rows = [Row(ids + i, SLOT, token, ids + i - 1 if ids + i else ROOT) for i, token in enumerate(feed)]
            logits = self._engine.forward(rows)
            kept += [row.id for row in rows]
            ids += len(rows)
            token, chance = self._sampler.rank(logits[-1], completion, 1, sharpness=self._sharpness.value)[0]
            if self._sampler.params.temperature:
                self._picks.append(self._sampler.picks(logits[-1], completion, Sharpness.CANDIDATES))
            chain.append((token, chance))
            completion.append(token)
            path *= chance
            feed = [token]
        self._engine.commit(SLOT, kept)
        # The last guess has no keys and values yet.
        self._cached = (self._tokens + [token for token, _ in chain])[: shared + len(kept)]
        self._guessed = chain
        return chain

    def _learn(self, picked: Sequence[int]) -> None:
        """What became of the last guesses: how sharp this model should be."""
        for picks, (token, _), truth in zip(self._picks, self._guessed, picked, strict=False):
            self._sharpness.outcome(picks, truth)
            if token != truth:
                return


def read_prompt(engine: Engine, cached: list[int], prompt: list[int]) -> None:
    """Read all of the prompt but its last token; what is in the cache already is not read again."""
    shared = min(common_length(cached, prompt), len(prompt) - 1)
    engine.truncate(SLOT, shared)
    if prompt[shared:-1]:
        engine.extend(SLOT, prompt[shared:-1])


@dataclass(frozen=True)
class Decoded:
    """An answer. `seconds`: from the end of the prompt to the last token."""

    tokens: list[int]
    seconds: float
    drafted: int
    accepted: int


@dataclass
class Target:
    """The target model, with what is in its cache and what it has learned of its draft's claims."""

    engine: Engine
    cached: list[int] = field(default_factory=list)
    calibration: defaultdict[str, Calibration] = field(default_factory=lambda: defaultdict(Calibration))

    def begin(self, prompt: Sequence[int], n: int, params: SamplingParams) -> Session:
        """A session of exactly n tokens, its prompt read."""
        read_prompt(self.engine, self.cached, list(prompt))
        return Session(1, len(prompt), params, Prefix(prompt), (), len(prompt) + n, self.calibration)

    def step(self, session: Session, nodes: Sequence[Node]) -> float:
        """One forward pass; returns its seconds."""
        rows = session.rows(nodes)
        started = time.perf_counter()
        logits = self.engine.forward(rows)
        seconds = time.perf_counter() - started
        self.engine.commit(SLOT, session.verify(nodes, logits).path)
        return seconds

    def end(self, session: Session, seconds: float) -> Decoded:
        self.cached = session.prefix.tokens[: self.engine.length(SLOT)]
        return Decoded(session.completion, seconds, session.total.drafted, session.total.accepted)


def synchronous(
    target: Target, drafts: Drafts, prompt: Sequence[int], n: int, params: SamplingParams, length: int, floor: float,
    for_free: bool = False,
) -> Decoded:  # fmt: skip
    """Draft, verify, draft, verify: one of the two models always waits for the other.

    `for_free`: the clock stands still while the draft model works.
    """
    session = target.begin(prompt, n, params)
    drafts.begin(prompt, params)
    told = len(prompt) - 1
    stopped, started = 0.0, time.perf_counter()
    while session.finish_reason is None:
        tokens = session.prefix.tokens
        most = min(length, session.limit - len(tokens) - 1)
        paused = time.perf_counter()
        chain = drafts.chain(told, tokens[told:], most, floor) if most else []
        stopped += time.perf_counter() - paused if for_free else 0.0
        told = len(tokens)
        target.step(session, hang(session, chain))
    return target.end(session, time.perf_counter() - started - stopped)


def hang(session: Session, chain: Chain) -> list[Node]:
    """Merge a chain into the session's tree; returns its nodes."""
    nodes: list[Node] = []
    at = session.tree.root
    for token, chance in chain:
        session.tree.merge(Expansion(at.length, at.hash, [token], [chance]), "draft")
        at = at.children[token]
        nodes.append(at)
    return nodes


def free(
    target: Target, draft: Engine, scale: Scale, sharpness: Sharpness, planner: Planner, prompt: Sequence[int], n: int,
    params: SamplingParams, policy: Policy, now: Callable[[], float] = time.perf_counter,
) -> Decoded:  # fmt: skip
    """The lead's loop with guesses that cost nothing and are there at once: the clock stops while they are made.

    With the policy `CHAIN` they are one line of the likeliest tokens, with `TREE` what a back would have grown.
    """
    session = target.begin(prompt, n, params)
    source = Draft(1, params, len(prompt), AHEAD, lambda rows: 1.0 + 0.1 * rows, scale, sharpness, policy)
    draft.truncate(SLOT, 0)
    told = 0
    stopped, started = 0.0, now()
    planner.begun(started)
    while session.finish_reason is None:
        paused = now()
        tokens = session.prefix.tokens
        source.commit(told, tokens[told:])
        told = len(tokens)
        for expansion in grow(source, draft):
            session.tree.merge(expansion, "draft")
        stopped += now() - paused
        nodes = planner.plan([Growing(session.tree, session.limit)], now() - stopped).nodes[0]
        seconds = target.step(session, nodes)
        planner.finished(now() - stopped, 1 + len(nodes), seconds, len(session.prefix) - told)
    return target.end(session, now() - stopped - started)


def grow(source: Draft, draft: Engine) -> list[Expansion]:
    """All that is worth guessing from here, and no end of forward passes."""
    found: list[Expansion] = []
    kept = source.update_cache(draft.batch)
    draft.commit(SLOT, kept.path, kept.rest)
    while kept.missing:
        draft.extend(SLOT, kept.missing)
        kept = source.update_cache(draft.batch)
    while not source.idle and len(found) < FREE_ROWS and (rows := next_batch(source, SLOT)):
        found += source.absorb(draft.forward(rows))
    return found


POLICIES = {"chain": CHAIN, "tree": TREE}
