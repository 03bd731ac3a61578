"""The production planner and drafting policy in simulated time.

`Lead` and `lead.simulation.back.Back` stand for `lead/decode/step.py` and `back/drafter.py`. Their forward passes take
as long as a cost says, and their messages as long as a link says. Hours of decoding take seconds. `python -m lead
match` expects speed-ups by it, and `python -m bench simulate` sweeps over machines and links.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from duo.draft.batch import next_batch
from duo.draft.policy import CHAIN, MAX_RIDERS, TREE, Policy
from duo.engines.replay import NOTHING, Checkpoints, Replayed
from duo.guesses import Expansion
from duo.prefix import Prefix, common_length, extend_hash
from lead.decode.memory import NAME as MEMORY
from lead.decode.memory import Memory
from lead.plan.arrivals import DraftOffer, offer_of
from lead.plan.limits import Limits
from lead.plan.speculation import Expand, Speculation, Verify, Wait
from lead.plan.tree import GuessTree, Node
from lead.plan.verify_all import VerifyAll
from lead.simulation import world
from lead.simulation.back import READ, Back, Machine, News, drafting, revealed
from lead.simulation.clock import Clock
from lead.simulation.world import Acceptance, Asked, Cost

__all__ = ["Answered", "Back", "Clock", "Lead", "Machine", "answers", "chain", "run", "speed"]


LOCAL = "lead"
"""The name under which the draft model beside the target guesses."""


@dataclass(frozen=True)
class _Text:
    """An answer under way, as memory sees it."""

    id: int
    prefix: Prefix
    tree: GuessTree


@dataclass(frozen=True)
class Answered:
    """Seconds until the prompt was read, then until the last of the tokens."""

    tokens: int
    reading: float
    decoding: float


class _LocalDraft:
    """A draft model beside the target."""

    def __init__(self, cost: Cost, acceptance: Acceptance) -> None:
        self._cost = cost
        self._acceptance = acceptance

    def begin(self, session: int, prompt: Sequence[int]) -> None:
        self._draft = drafting(session, len(prompt), world.DRAFT_MAX, self._cost, TREE, self._acceptance)
        self._draft.commit(0, prompt)
        self._draft.update_cache(len(prompt))  # while the target reads it

    def commit(self, start: int, tokens: Sequence[int]) -> None:
        self._draft.commit(start, tokens)

    def merge(self, found: Sequence[Expansion]) -> None:
        for expansion in found:
            self._draft.merge(expansion)

    @property
    def offer(self) -> DraftOffer | None:
        if self._draft.idle:
            return None
        return offer_of([(self._draft.unread, self._draft.next_rows)], MAX_RIDERS, self._cost)

    def run(self) -> float:
        """Read what is missing, then run one forward pass. Returns the seconds that this takes."""
        missing = self._draft.update_cache(READ).missing
        return (self._cost(len(missing)) if missing else 0.0) + self._cost(len(next_batch(self._draft, 0)))

    def found(self) -> Sequence[Expansion]:
        return revealed(self._draft)


class Lead:
    """The lead's loop: plan, forward, pick, commit, tell. One answer after the other.

    `overhead`: seconds that a step takes beside its forward pass. `local_draft`: what a draft model beside the target
    costs, if there is one. `checkpoints`: what going back takes, if the target has no other way. `messages`: seconds
    that a step takes longer while backs send and are sent messages. `memory`: guesses from earlier text, at no cost.
    `shared`: what a forward pass takes while backs compute on the same machine.
    """

    def __init__(
        self,
        acceptance: Acceptance,
        cost: Cost,
        planner: Speculation,
        seed: int = 1,
        asked: Sequence[Asked] = (),
        overhead: float = 0.0,
        local_draft: Cost | None = None,
        checkpoints: Checkpoints | None = None,
        messages: float = 0.0,
        memory: Memory | None = None,
        shared: Cost | None = None,
    ) -> None:
        self.acceptance = acceptance
        self.clock = Clock()
        self.rng = random.Random(seed)
        self.backs: list[Back] = []
        self.order: Sequence[str] = ()
        """Names of the backs that divide the work of drafting."""
        self.answers: list[Answered] = []
        self.prefix = Prefix()
        self._asked = asked
        self._cost = cost
        self._overhead = overhead
        self._checkpoints = checkpoints
        self._messages = messages
        self._memory = memory
        self._shared = shared
        self._planned, self._worked = 0.0, 0.0
        """When the last forward pass began, and for how long backs had computed by then."""
        self._planner = planner
        self._local_draft = _LocalDraft(local_draft, acceptance) if local_draft is not None else None
        self._reading = True
        self._waiting = 0
        self._plans = 0
        self._resting = False

    @property
    def _session(self) -> int:
        return len(self.answers)

    @property
    def _now_asked(self) -> Asked | None:
        return self._asked[self._session] if self._session < len(self._asked) else None

    @property
    def done(self) -> bool:
        return self._now_asked is None

    def welcome(self, back: Back) -> None:
        """A back has come, and hears all of the answer so far."""
        back.there = True
        self.joined(back.name)
        if self._now_asked is not None:
            back.tell(News(self._session, len(self._now_asked.prompt), 0, list(self.prefix.tokens)))

    def joined(self, back: str) -> None:
        """A back is there."""
        self._planner.joined(back)

    def left(self, back: str) -> None:
        """A back has gone."""
        self._planner.left(back)

    def receive(self, back: str, session: int, found: Sequence[Expansion]) -> None:
        if session != self._session:
            return
        useful = self._tree.learn(found, back)
        if useful and not self._reading:
            self._planner.heard(self.clock.now, back, useful)
        if self._local_draft is not None:
            self._local_draft.merge([place.guesses for place in useful])
        if self._waiting:
            self.step()

    def begin(self) -> None:
        """Read the prompt of the next answer; the backs do so at the same time."""
        it = self._now_asked
        if it is None:
            return
        cached = self.prefix.tokens[:-1]
        self.prefix = Prefix(it.prompt)
        self._limit = len(it.prompt) + it.tokens
        self._tree = GuessTree(len(it.prompt), self.prefix.hash, self._planner.calibration, self._limit)
        self._text = _Text(self._session, self.prefix, self._tree)
        if self._memory is not None:
            self._memory.begin(self._text, "")
        self.order = self._planner.backs
        self.tell(0, it.prompt)
        self._begun, self._reading = self.clock.now, True
        unread = len(it.prompt) - 1 - min(common_length(cached, self.prefix.tokens), len(it.prompt) - 1)
        seconds = sum(self._cost(min(READ, unread - start)) for start in range(0, unread, READ))
        if self._local_draft is not None:
            self._local_draft.begin(self._session, it.prompt)
        self.clock.after(seconds, self._read)

    def _read(self) -> None:
        self._decoding, self._reading = self.clock.now, False
        self._planner.skipped(self.clock.now)
        self._next(len(self.prefix))

    def _next(self, read: int = 0) -> None:
        """Begins a step. `read`: tokens of a prompt that was read before it."""
        if self._memory is not None:
            for found in self._memory.guesses([self._text], read).get(self._text.id, ()):
                self._tree.merge(found, MEMORY, model=False)
        self.step()

    def step(self) -> None:
        self._plans += 1
        self._waiting = 0
        offer = self._local_draft.offer if self._local_draft is not None else None
        match self._planner.next([self._tree], self.clock.now, offer):
            case Verify((nodes,)):
                passed = self._pass(1 + len(nodes))
                seconds = passed + self._save(len(nodes)) + self._overhead
                seconds += self._messages if self.backs and not self._resting else 0.0
                self.clock.after(seconds, lambda: self._verified(nodes, passed))
            case Wait(_, seconds):
                self._waiting = number = self._plans
                self.clock.after(seconds, lambda: self.step() if self._waiting == number else None)
            case Expand():
                assert self._local_draft is not None, "it made the offer"
                self.clock.after(self._local_draft.run(), self._drafted)

    def _pass(self, rows: int) -> float:
        """Seconds of a forward pass, if backs compute as much of the time as since the pass before."""
        alone = self._cost(rows)
        if self._shared is None:
            return alone
        worked, now = sum(back.worked for back in self.backs), self.clock.now
        busy = min(1.0, (worked - self._worked) / (now - self._planned)) if now > self._planned else 0.0
        self._planned, self._worked = now, worked
        return alone + busy * (self._shared(rows) - alone)

    def _save(self, guesses: int) -> float:
        """Seconds of a checkpoint before a pass with guesses."""
        return self._checkpoints.save if self._checkpoints is not None and guesses else 0.0

    def _drafted(self) -> None:
        assert self._local_draft is not None
        self._planner.drafted(self._tree.learn(self._local_draft.found(), LOCAL))
        self.step()

    def _verified(self, nodes: Sequence[Node], passed: float) -> None:
        """`passed`: seconds of the forward pass."""
        start, chosen = len(self.prefix), {id(node) for node in nodes}
        node: Node | None = self._tree.root
        tokens: list[int] = []
        unaided, state = 0, self.prefix.hash
        while node is not None and start + len(tokens) < self._limit:
            tokens.append(self.acceptance.truth(state, start + len(tokens)))
            state = extend_hash(state, tokens[-1])
            guess = node.children.get(tokens[-1])
            node = guess if id(guess) in chosen else None
            unaided += node is not None and MEMORY in node.chances
        for token in tokens:
            self.prefix.extend([token])
            self._tree.advance(token, self.prefix.hash)
        back = self._back(len(tokens)) if len(tokens) <= len(nodes) else NOTHING
        seconds = passed + self._save(len(nodes)) + back.seconds

        def committed() -> None:
            self._committed(start, tokens, len(nodes), seconds, back, unaided)

        if back.seconds:
            self.clock.after(back.seconds, committed)
        else:
            committed()

    def _back(self, rows: int) -> Replayed:
        """A guess was wrong, and this many rows are kept."""
        again = self._checkpoints
        return Replayed(1, [rows], again.restore + self._cost(rows)) if again is not None else NOTHING

    def _committed(
        self, start: int, tokens: Sequence[int], guesses: int, seconds: float, back: Replayed, unaided: int
    ) -> None:
        """`seconds`: of the pass and of going back. `unaided`: how many tokens memory had guessed."""
        replayed = back._replace(saved=int(self._checkpoints is not None and guesses > 0))
        self._planner.finished(
            self.clock.now, 1 + guesses, seconds, len(tokens), replayed=replayed, unaided=unaided
        )  # fmt: skip
        if self._memory is not None:
            self._memory.committed(self._text, tokens)
        self.tell(start, tokens)
        if self._local_draft is not None:
            self._local_draft.commit(start, tokens)
        if len(self.prefix) < self._limit:
            self._next()
        else:
            self._end()

    def _end(self) -> None:
        it = self._asked[self._session]
        self.tell(len(self.prefix), None)
        if self._memory is not None:
            self._memory.end(self._text)
        self.answers.append(Answered(it.tokens, self._decoding - self._begun, self.clock.now - self._decoding))
        self.begin()

    def tell(self, start: int, tokens: Sequence[int] | None) -> None:
        resting, rested = self._planner.resting, self._resting
        self._resting = resting
        if resting and rested:
            return
        if resting:
            tokens = None  # as if the session had ended
        elif rested and tokens is not None:
            start, tokens = 0, self.prefix.tokens
        news = News(self._session, len(self._asked[self._session].prompt), start, tokens)
        for back in self.backs:
            if back.there:
                back.tell(news)


def answers(
    acceptance: Acceptance,
    target: Cost,
    machines: Sequence[Machine],
    asked: Sequence[Asked],
    policy: Policy = TREE,
    planner: Speculation | None = None,
    n_ahead: int = world.DRAFT_MAX,
    overhead: float = 0.0,
    local_draft: Cost | None = None,
    checkpoints: Checkpoints | None = None,
    messages: float = 0.0,
    memory: Memory | None = None,
    shared: Cost | None = None,
) -> list[Answered]:
    """How long each answer of a lead with these backs takes. The other arguments are those of `Lead`."""
    planner = planner or world.planner(target)
    lead = Lead(
        acceptance, target, planner, 1, asked, overhead, local_draft, checkpoints, messages, memory, shared
    )  # fmt: skip
    lead.backs = [Back(machine, f"back {i}", lead, policy, n_ahead) for i, machine in enumerate(machines)]
    for back in lead.backs:
        lead.joined(back.name)
    lead.begin()
    lead.clock.run(lambda: lead.done)
    return lead.answers


def speed(answered: Sequence[Answered]) -> float:
    """Tokens per second once the prompts are read, as the lead's timings count them."""
    return sum(answer.tokens for answer in answered) / sum(answer.decoding for answer in answered)


def run(
    acceptance: Acceptance,
    target: Cost,
    machines: Sequence[Machine],
    tokens: int | Sequence[Asked],
    policy: Policy = TREE,
    planner: Speculation | None = None,
    n_ahead: int = world.DRAFT_MAX,
    local_draft: Cost | None = None,
    checkpoints: Checkpoints | None = None,
) -> float:
    """Tokens per second of a lead with these backs. `tokens`: of one answer, or the answers asked for."""
    asked = world.asked(tokens) if isinstance(tokens, int) else tokens
    return speed(answers(acceptance, target, machines, asked, policy, planner, n_ahead, 0.0, local_draft, checkpoints))


CHAINS = (3, 7, 15)
"""How far ahead the plain chain is tried."""


def chain(
    acceptance: Acceptance,
    target: Cost,
    machine: Machine,
    tokens: int | Sequence[Asked],
    ahead: Sequence[int] = CHAINS,
) -> float:
    """Tokens per second of the plain asynchronous chain: one line, all of it verified, no waits. It gets the best
    of several limits, which bound both drafting ahead and verifying."""
    return max(run(acceptance, target, [machine], tokens, CHAIN, VerifyAll(Limits(n)), n) for n in ahead)
