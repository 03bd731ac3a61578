"""A draft model at work: one engine that drafts for several sessions."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from duo import installing
from duo.draft.batch import Part, gather
from duo.draft.draft import Draft
from duo.draft.policy import MAX_BATCH_ROWS, MAX_RIDERS, Policy
from duo.draft.scaling import Scale, Sharpness
from duo.draft.slots import Slots
from duo.engines import Engine, Logits, Row
from duo.engines.base import InterruptedForwardError
from duo.engines.cost import CostCurve
from duo.errors import ContextError, DuoError, ModelError, RequestError
from duo.guesses import ALONE, Expansion, Share
from duo.sampling.params import Constraint, Ints, SamplingParams
from duo.trace import Trace

if TYPE_CHECKING:
    from duo.sampling.grammar import Grammars

MIN_CHUNK = 16
"""Tokens in a chunk at least."""
CHUNK_BATCHES = 8
"""While other sessions wait, a chunk takes as long as this many forward passes of one row."""
IMPOSSIBLE = -1e30
"""The logit of a token that must not be guessed. It is finite, so nothing is nan where a grammar leaves no other."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a batch found for one session. `rows`: its part of the batch. `error`: why the session cannot go on."""

    draft: Draft
    expansions: Sequence[Expansion]
    rows: int
    error: DuoError | None = None


@dataclass(slots=True)
class _UnderWay:
    """The batch being computed: its parts by session, their total weight, and the weight that commits made useless."""

    parts: dict[int, Part] = field(default_factory=dict)
    weight: float = 0.0
    obsolete: float = 0.0


log = logging.getLogger("duo.draft_model")


def check_drafts(engine: Engine) -> None:
    """Raises ModelError if the model cannot drop what it has read ahead, and so cannot draft."""
    if not engine.rollback.depth:
        raise ModelError(
            f"{engine.name} cannot draft: on {engine.runtime} its memory does not go back; choose another draft model"
        )


class DraftModel:
    """One thread calls it, except for `interrupt_obsolete`. `lane`: its row in the trace."""

    def __init__(
        self,
        engine: Engine,
        cost: CostCurve,
        n_ahead: int,
        policy: Policy,
        trace: Trace,
        lane: str,
    ) -> None:
        """Raises ModelError if the model cannot draft."""
        check_drafts(engine)
        self._size = engine.vocabulary.size
        self._unsayable: set[int] = set()
        """Tokens of the draft model with no meaning, or another one, for the target. All drafts share the set."""
        self._masked: Ints = np.array([], dtype=np.int64)
        """The same, in order."""
        self._lacking: frozenset[int] = frozenset()
        """Tokens of the target that are padding in the draft model's vocabulary."""
        self._branches = engine.rollback.trees
        if not self._branches:
            # No row outlives its forward pass, so each pass reads the whole line to the one place that it expands.
            policy = replace(policy, batch=1)
            n_ahead = min(n_ahead, engine.rollback.depth, MAX_BATCH_ROWS - MAX_RIDERS)
        self.n_ahead = n_ahead
        self.cost = cost
        self._engine = engine
        self._policy = policy
        self._trace = trace
        self._lane = lane
        self._scale, self._sharpness = Scale(), Sharpness()
        self.slots = Slots(engine)
        self._batches = 0
        self._ids = itertools.count()
        self._under_way = _UnderWay()
        """Its drafts do not change until it is done."""
        self._lock = threading.Lock()
        self._warned = False
        self._grammars: Grammars | None = None

    def drafts_for(self, vocabulary_size: int, differing: Collection[int] = ()) -> None:
        """Draft for a target with this vocabulary. `differing`: tokens with another meaning for the draft model."""
        vocabulary = self._engine.vocabulary
        self._unsayable.clear()
        self._unsayable.update(range(vocabulary_size, self._size), (t for t in differing if t < self._size))
        self._masked = np.array(sorted(self._unsayable), dtype=np.int64)
        self._lacking = frozenset(t for t in differing if t < self._size and not vocabulary.meanings[t])

    def _as_read(self, tokens: Iterable[int]) -> list[int]:
        """What the draft model reads for these tokens of the target: a line break for those that it lacks.

        A renamed token is read as it is. Fine-tunes rename special tokens, and those keep their place in conversations.
        """
        size, lacking = self._size, self._lacking
        return [self._harmless if t >= size or t in lacking else t for t in tokens]

    def _rows_as_read(self, rows: Sequence[Row]) -> Sequence[Row]:
        if not self._lacking and max(row.token for row in rows) < self._size:
            return rows
        tokens = self._as_read(row.token for row in rows)
        return [row._replace(token=token) for row, token in zip(rows, tokens, strict=True)]

    @cached_property
    def _harmless(self) -> int:
        return next(reversed(self._engine.vocabulary.encode_rendered("\n")), 0)

    @property
    def longest_line(self) -> int:
        """Places of known text that a draft can read ahead in one pass; 0 if that is of no use."""
        return self.n_ahead - 1 if self._branches and self._policy.batch > 1 else 0

    def open(
        self,
        session: int,
        params: SamplingParams,
        prompt_length: int,
        share: Share = ALONE,
        eos: Collection[int] = (),
    ) -> Draft:
        """The draft of a new session, without a slot. `eos`: the tokens that end its answer."""
        bias = {t: bias for t, bias in params.logit_bias.items() if t < self._size and t not in self._unsayable}
        if len(bias) < len(params.logit_bias):
            params = replace(params, logit_bias=bias)
        return Draft(
            session, params, prompt_length, self.n_ahead, self.cost, self._scale, self._sharpness, self._policy, share,
            ids=self._ids, eos=eos, unsayable=self._unsayable, context=self._engine.context,
            constraint=self._constraint(params.grammar),
        )  # fmt: skip

    def _constraint(self, grammar: str) -> Constraint | None:
        """The compiled grammar. None if there is none or it cannot be used here, which only makes guesses worse."""
        if not grammar:
            return None
        try:
            if self._grammars is None:
                from duo.sampling.grammar import Grammars  # here, because a back need not have llguidance

                self._grammars = Grammars(self._engine.vocabulary)
            return self._grammars.constraint(grammar)
        except (RequestError, ModuleNotFoundError) as error:
            if not self._warned:
                self._warned = True
                why: object = error
                if isinstance(error, ModuleNotFoundError):
                    why = f"{error.name} is not installed: {installing.command('grammar')}"
                log.warning("drafting without the grammar of an answer: %s", why)
            return None

    def assign_slots(self, drafts: Collection[Draft]) -> list[Draft]:
        """Give slots to open drafts without one, the most valuable first. Returns the drafts with a slot, the one that
        waits longest first."""
        if len(self.slots) < len(drafts):
            waiting = [draft for draft in drafts if draft.weight and self.slots.of(draft) is None]
            for draft in sorted(waiting, key=lambda draft: (draft.idle, -draft.weight)):
                if not self.slots.give(draft):
                    break
        seated = [(slot.used, draft) for draft in drafts if (slot := self.slots.of(draft)) is not None]
        if len(seated) > 1:
            seated.sort(key=lambda it: it[0])
        return [draft for _, draft in seated]

    def ensure_slot(self, draft: Draft) -> None:
        """Give this draft a slot if it has none, even if another draft loses its own."""
        if self.slots.of(draft) is None:
            self.slots.give(draft, force=True)

    def check_context(self, draft: Draft) -> None:
        """Raises ContextError if the session has outgrown the draft model."""
        if len(draft.prefix) > self._engine.context:
            raise ContextError(
                f"{len(draft.prefix)} tokens do not fit the draft model's context of {self._engine.context}"
            )

    def read(self, draft: Draft, others: bool = False) -> int:
        """One forward pass over a draft's backlog; returns the tokens read. `others` wait: read only a chunk.

        Raises ContextError if the tokens do not fit. Then the draft is useless: free its slot.
        """
        started = time.perf_counter()
        slot = self.slots.of(draft)
        assert slot is not None
        if not draft.cache_current:
            self.slots.update_cache(draft, slot)
        if not draft.backlog:
            return 0
        self.check_context(draft)
        self.slots.borrow(draft)
        missing = self.slots.update_cache(draft, slot, self._chunk() if others else self._engine.batch)
        try:
            if missing:
                self._engine.extend(slot.id, self._as_read(missing))
        except ContextError:
            self.slots.lost(draft)
            raise
        slot.read += len(missing)
        self._trace.span(self._lane, "read", started, time.perf_counter(), tokens=len(missing), behind=draft.backlog)
        return len(missing)

    def _chunk(self) -> int:
        """Tokens that are read in about the time of a few batches."""
        max_cost, tokens = CHUNK_BATCHES * self.cost(1), MIN_CHUNK
        while 2 * tokens <= self._engine.batch and self.cost(2 * tokens) <= max_cost:
            tokens *= 2
        return tokens

    def expand(self, drafts: Sequence[Draft], since: float | None = None) -> list[Found]:
        """One forward pass over the likeliest places of drafts that have slots and no backlog. Returns what it found,
        nothing if it was given up. `since`: when its cost began, if that was earlier than now.
        """
        slots = [(draft, slot) for draft in drafts if (slot := self.slots.of(draft)) is not None]
        for draft, slot in slots:
            if not draft.cache_current:
                self.slots.update_cache(draft, slot)
        started = time.perf_counter()
        parts = gather([(draft, slot.id) for draft, slot in slots], self.cost)
        if not parts:
            return []
        rows = parts[0].rows if len(parts) == 1 else [row for part in parts for row in part.rows]
        self._batches += 1
        weight = sum(part.weight for part in parts)
        with self._lock:
            self._under_way = _UnderWay({part.draft.session: part for part in parts}, weight)
        logits: Logits | None = None
        error: ContextError | None = None
        try:
            logits = self._engine.forward(self._rows_as_read(rows))
        except InterruptedForwardError:
            pass
        except ContextError as it:
            error = it
        finally:
            with self._lock:
                self._under_way = _UnderWay()
        forwarded = time.perf_counter()
        if logits is None:
            for part in parts:
                part.draft.abandon()
            self._trace.span(self._lane, "given up", started, forwarded, rows=len(rows))
            return self._without(parts, error) if error is not None else []
        found = self._absorb(parts, logits)
        done = time.perf_counter()
        self.cost.observe(len(rows), done - (started if since is None else since))
        if self._trace.on:
            depth = max((e.length - len(it.draft.prefix) for it in found for e in it.expansions), default=0)
            expanded = sum(part.expanded for part in parts)
            self._trace.span(
                self._lane, "draft", started, forwarded, rows=len(rows), expanded=expanded, depth=depth,
                sessions=len(parts),
            )  # fmt: skip
            self._trace.span(self._lane, "rank", forwarded, done)
        return found

    def _absorb(self, parts: Sequence[Part], logits: Logits) -> list[Found]:
        if len(self._masked):
            logits[:, self._masked] = IMPOSSIBLE
        found: list[Found] = []
        start = 0
        for part in parts:
            draft, end = part.draft, start + len(part.rows)
            slot = self.slots.of(draft)
            assert slot is not None
            slot.used = self._batches
            slot.drafted += part.expanded
            try:
                found.append(Found(draft, draft.absorb(logits[start:end]), len(part.rows)))
            except DuoError as error:
                # The sampler cannot serve this session. That does not concern the others.
                found.append(Found(draft, (), len(part.rows), error))
            start = end
        for each in found:
            if each.error is not None:
                self.slots.lost(each.draft)
            elif not self._branches and (slot := self.slots.of(each.draft)) is not None:
                each.draft.trim_rows(0)
                self.slots.update_cache(each.draft, slot)
        return found

    def _without(self, parts: Sequence[Part], error: ContextError) -> list[Found]:
        """The batch did not fit. Nobody knows whose part was to blame, so the longest session is given up."""
        draft = max((part.draft for part in parts), key=lambda draft: len(draft.prefix))
        self.slots.lost(draft)
        return [Found(draft, (), 0, error)]

    def interrupt_obsolete(self, session: int, start: int, tokens: Sequence[int]) -> None:
        """Called from another thread when tokens of a session are final. Interrupts the batch under way if commits have
        made more than half of its weight useless. The drafts themselves change later."""
        with self._lock:
            batch = self._under_way
            part = batch.parts.get(session)
            if part is not None and part.draft.obsolete(start, tokens):
                del batch.parts[session]
                batch.obsolete += part.weight
                if 2 * batch.obsolete > batch.weight:
                    self._engine.interrupt()
