"""Schedules of the same two models without a lead: synchronous speculation, and the bounds of free drafts.

Synchronous speculation (Leviathan et al. 2023, Chen et al. 2023) is done here as well as our own parts can. So it
differs from ours in the schedule alone: engines, coupled sampling and verification are the same. The draft model runs
once per guess. Tokens that its cache lacks ride along in the first of these passes.

The bounds are the lead's own loop, with the planner that chooses what to verify. But guesses are there at once: the
clock stands still while they are made. Synchronous speculation with free drafts at its best draft length is a bound
too. It tells what the planner's choice is worth.
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
from lead.plan.tree import Node

SLOT = 0
AHEAD = 16
"""Tokens that free drafts are ahead, and the rows of their tree at most."""
FREE_ROWS = 64

Chain = list[tuple[int, float]]
"""Guessed tokens, each with the probability that it is right if the tokens before it are."""


class Drafts(Protocol):
    """A source of chains: a draft model here, or in another process."""

    def begin(self, prompt: Sequence[int], params: SamplingParams) -> None:
        """Reads the prompt."""
        ...

    def chain(self, start: int, tokens: Sequence[int], length: int, floor: float) -> Chain:
        """Guesses what comes after the answer so far: at most `length` tokens.

        It ends earlier once the path is less probable than `floor`. tokens: those from place `start` on, where place 0
        is the first token of the prompt.
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
        """For each guess, the token that each candidate for the sharpness would pick."""

    def forget(self) -> None:
        """Forgets the cache, because another schedule has used the model."""
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
        # The last guess has no keys and values.
        self._cached = (self._tokens + [token for token, _ in chain])[: shared + len(kept)]
        self._guessed = chain
        return chain

    def _learn(self, picked: Sequence[int]) -> None:
        """Learns from the last guesses how sharp this model should be."""
        for picks, (token, _), truth in zip(self._picks, self._guessed, picked, strict=False):
            self._sharpness.outcome(picks, truth)
            if token != truth:
                return


def read_prompt(engine: Engine, cached: list[int], prompt: list[int]) -> None:
    """Reads the prompt up to its last token. `cached` are the tokens of the cache, which are not read again."""
    shared = min(common_length(cached, prompt), len(prompt) - 1)
    engine.truncate(SLOT, shared)
    if prompt[shared:-1]:
        engine.extend(SLOT, prompt[shared:-1])


@dataclass(frozen=True)
class Decoded:
    """An answer. seconds: from the end of the prompt to the last token."""

    tokens: list[int]
    seconds: float
    drafted: int
    accepted: int


@dataclass
class Target:
    """The target, the tokens in its cache, and what it has learned about the draft's probabilities."""

    engine: Engine
    cached: list[int] = field(default_factory=list)
    calibration: defaultdict[str, Calibration] = field(default_factory=lambda: defaultdict(Calibration))

    def begin(self, prompt: Sequence[int], n: int, params: SamplingParams) -> Session:
        """Reads the prompt, and returns a session of exactly n tokens."""
        read_prompt(self.engine, self.cached, list(prompt))
        return Session(1, len(prompt), params, Prefix(prompt), (), len(prompt) + n, self.calibration)

    def step(self, session: Session, nodes: Sequence[Node]) -> float:
        """Verifies in one forward pass, and commits. Returns the seconds of the pass."""
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
    """Drafts a chain, verifies it, and so on: one of the two models always waits.

    length, floor: of each chain, as in `Drafts.chain`. for_free: the clock stands still while the draft model works.
    """
    session = target.begin(prompt, n, params)
    drafts.begin(prompt, params)
    told = len(prompt) - 1
    stopped, started = 0.0, time.perf_counter()
    while session.finish_reason is None:
        tokens = session.prefix.tokens
        longest = min(length, session.limit - len(tokens) - 1)
        paused = time.perf_counter()
        chain = drafts.chain(told, tokens[told:], longest, floor) if longest else []
        stopped += time.perf_counter() - paused if for_free else 0.0
        told = len(tokens)
        target.step(session, merge(session, chain))
    return target.end(session, time.perf_counter() - started - stopped)


def merge(session: Session, chain: Chain) -> list[Node]:
    """Merges a chain into the session's tree. Returns its nodes."""
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
    planner.skipped(started)
    while session.finish_reason is None:
        paused = now()
        tokens = session.prefix.tokens
        source.commit(told, tokens[told:])
        told = len(tokens)
        for expansion in grow(source, draft):
            session.tree.merge(expansion, "draft")
        stopped += now() - paused
        nodes = planner.next([session.tree], now() - stopped).nodes[0]
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
