"""A draft model at work: an engine with some slots, and what the drafts of its sessions ask of it."""

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

from duo.draft.batch import Part, gather
from duo.draft.draft import Draft
from duo.draft.policy import MOST, RIDERS, Policy
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

BITE = 16
"""Fewest tokens read at once where others wait."""
AS_LONG_AS = 8
"""So many forward passes of one row may such a piece take."""
NEVER = -1e30
"""The logit of a token that must not be guessed. It is finite: where a grammar leaves no other, nothing is nan."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a batch revealed for one of its sessions, which had so many rows of it; or why that session cannot go on."""

    draft: Draft
    expansions: Sequence[Expansion]
    rows: int
    error: DuoError | None = None


@dataclass(slots=True)
class _UnderWay:
    """The batch that is being computed: what its sessions have in it counts for so much, and how much of that is of no
    use any more."""

    parts: dict[int, Part] = field(default_factory=dict)
    worth: float = 0.0
    obsolete: float = 0.0


log = logging.getLogger("duo.draft_model")


def check_drafts(engine: Engine) -> None:
    """Raises ModelError if the model cannot draft: nothing that it reads ahead could be dropped again."""
    if not engine.rollback.depth:
        raise ModelError(
            f"{engine.name} cannot draft: on {engine.runtime} its memory does not go back; choose another draft model"
        )


class DraftModel:
    """Not thread-safe: one thread calls it. `lane`: where the trace shows what it does."""

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
        """Tokens of the draft model that mean nothing, or something else, to the target. Shared by the drafts."""
        self._masked: Ints = np.array([], dtype=np.int64)
        """The same, in order."""
        self._lacking: frozenset[int] = frozenset()
        """Tokens of the target that only pad the draft model's vocabulary. It also lacks those beyond its size."""
        self._branches = engine.rollback.trees
        if not self._branches:
            # No row outlives its forward pass. So a pass expands one place, and reads the line that leads there.
            policy = replace(policy, batch=1)
            n_ahead = min(n_ahead, engine.rollback.depth, MOST - RIDERS)
        self.n_ahead = n_ahead
        self.cost = cost
        self._engine = engine
        self._policy = policy
        self._trace = trace
        self._lane = lane
        self._scale, self._sharpness = Scale(), Sharpness()
        self._slots = Slots(engine)
        self._batches = 0
        self._ids = itertools.count()
        self._under_way = _UnderWay()
        """The drafts in it do not change meanwhile."""
        self._lock = threading.Lock()
        self._warned = False
        self._grammars: Grammars | None = None

    def drafts_for(self, vocabulary_size: int, differing: Collection[int] = ()) -> None:
        """The target has so many tokens, and those that are `differing` do not mean the same to both models."""
        vocabulary = self._engine.vocabulary
        self._unsayable.clear()
        self._unsayable.update(range(vocabulary_size, self._size), (t for t in differing if t < self._size))
        self._masked = np.array(sorted(self._unsayable), dtype=np.int64)
        self._lacking = frozenset(t for t in differing if t < self._size and not vocabulary.meanings[t])

    def _as_read(self, tokens: Iterable[int]) -> list[int]:
        """What the draft model reads for these tokens of the target: a line's end for those that it lacks.

        A token with another name, as fine-tunes rename special ones, keeps its place in conversations: it is read as it
        is.
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

    def open(
        self,
        session: int,
        params: SamplingParams,
        prompt_length: int,
        turn: Share = ALONE,
        eos: Collection[int] = (),
    ) -> Draft:
        """The draft of a session that begins, not yet in a slot. `eos`: the tokens that end its answer."""
        bias = {t: bias for t, bias in params.logit_bias.items() if t < self._size and t not in self._unsayable}
        if len(bias) < len(params.logit_bias):
            params = replace(params, logit_bias=bias)
        return Draft(
            session, params, prompt_length, self.n_ahead, self.cost, self._scale, self._sharpness, self._policy, turn,
            ids=self._ids, eos=eos, unsayable=self._unsayable, context=self._engine.context,
            constraint=self._constraint(params.grammar),
        )  # fmt: skip

    def _constraint(self, grammar: str) -> Constraint | None:
        """What the grammar stands for; None if there is none, or it is of no use here: then guesses are only worse."""
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
                    why = f"{error.name} is not installed: pip install 'duo-speculative[grammar]'"
                log.warning("drafting without the grammar of an answer: %s", why)
            return None

    def slot(self, drafts: Collection[Draft]) -> list[Draft]:
        """Of these, which are all that are open, those that have a slot, longest not served first. Slots are given to
        those that have none, to the most valuable first."""
        if len(self._slots) < len(drafts):
            waiting = [draft for draft in drafts if draft.weight and self._slots.of(draft) is None]
            for draft in sorted(waiting, key=lambda draft: (draft.ahead, -draft.weight)):
                if not self._slots.give(draft):
                    break
        seated = [(slot.used, draft) for draft in drafts if (slot := self._slots.of(draft)) is not None]
        if len(seated) > 1:
            seated.sort(key=lambda it: it[0])
        return [draft for _, draft in seated]

    def sit(self, draft: Draft) -> None:
        """Give this draft a slot, if it has none, whoever loses one by that."""
        if self._slots.of(draft) is None:
            self._slots.give(draft, anyway=True)

    def leave(self, draft: Draft) -> None:
        """This draft, which has ended, perhaps, needs no slot."""
        self._slots.leave(draft)

    def check(self, draft: Draft) -> None:
        """Raises ContextError if there is nothing more to be done for this draft."""
        if len(draft.prefix) > self._engine.context:
            raise ContextError(
                f"{len(draft.prefix)} tokens do not fit the draft model's context of {self._engine.context}"
            )

    def read(self, draft: Draft, others: bool = False) -> int:
        """Read what is committed of a draft that is `behind` into its slot; returns how many tokens were read, in one
        forward pass: all that it takes, or, if `others` wait meanwhile, a piece.

        Raises ContextError if they do not fit, after which the draft is of no use: `leave` it.
        """
        started = time.perf_counter()
        slot = self._slots.of(draft)
        assert slot is not None
        if not draft.settled:
            self._slots.settle(draft, slot)
        if not draft.behind:
            return 0
        self.check(draft)
        self._slots.borrow(draft)
        missing = self._slots.settle(draft, slot, self._piece() if others else self._engine.batch)
        try:
            if missing:
                self._engine.extend(slot.id, self._as_read(missing))
        except ContextError:
            self._slots.lost(draft)
            raise
        slot.read += len(missing)
        self._trace.span(self._lane, "read", started, time.perf_counter(), tokens=len(missing), behind=draft.behind)
        return len(missing)

    def _piece(self) -> int:
        """Tokens of a prompt that are read about as quickly as a few batches are drafted."""
        most, tokens = AS_LONG_AS * self.cost(1), BITE
        while 2 * tokens <= self._engine.batch and self.cost(2 * tokens) <= most:
            tokens *= 2
        return tokens

    def expand(self, drafts: Sequence[Draft], since: float | None = None) -> list[Found]:
        """One forward pass over the likeliest nodes of drafts that have slots and nothing `behind`: what it reveals.
        Nothing, if it was given up. `since`: when the work on it began, if what was done before is a part of its cost.
        """
        slots = [(draft, slot) for draft in drafts if (slot := self._slots.of(draft)) is not None]
        for draft, slot in slots:
            if not draft.settled:
                self._slots.settle(draft, slot)
        started = time.perf_counter()
        parts = gather([(draft, slot.id) for draft, slot in slots], self.cost)
        if not parts:
            return []
        rows = parts[0].rows if len(parts) == 1 else [row for part in parts for row in part.rows]
        self._batches += 1
        worth = sum(part.worth for part in parts)
        with self._lock:
            self._under_way = _UnderWay({part.draft.session: part for part in parts}, worth)
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
            logits[:, self._masked] = NEVER
        found: list[Found] = []
        start = 0
        for part in parts:
            draft, end = part.draft, start + len(part.rows)
            slot = self._slots.of(draft)
            assert slot is not None
            slot.used = self._batches
            slot.drafted += part.expanded
            try:
                found.append(Found(draft, draft.absorb(logits[start:end]), len(part.rows)))
            except DuoError as error:
                # What it asks of the sampler cannot be had here: the others know nothing of that.
                found.append(Found(draft, (), len(part.rows), error))
            start = end
        for each in found:
            if each.error is not None:
                self._slots.lost(each.draft)
            elif not self._branches and (slot := self._slots.of(each.draft)) is not None:
                each.draft.shed(0)
                self._slots.settle(each.draft, slot)
        return found

    def _without(self, parts: Sequence[Part], error: ContextError) -> list[Found]:
        """The batch had no room. It is not said whose part was to blame: the longest session's, so that the others go
        on."""
        draft = max((part.draft for part in parts), key=lambda draft: len(draft.prefix))
        self._slots.lost(draft)
        return [Found(draft, (), 0, error)]

    def committed(self, session: int, start: int, tokens: Sequence[int]) -> None:
        """Called from another thread: tokens of a session are final. What is being computed is given up if the greater
        part of it is of no use by now, because the answers go elsewhere; the drafts themselves are told later."""
        with self._lock:
            batch = self._under_way
            part = batch.parts.get(session)
            if part is not None and part.draft.obsolete(start, tokens):
                del batch.parts[session]
                batch.obsolete += part.worth
                if 2 * batch.obsolete > batch.worth:
                    self._engine.interrupt()

    def reset(self) -> None:
        """No slot is anybody's, and it is not known what they hold."""
        self._slots.forget()
