"""`python -m bench simulate`: the production planner and drafting policy in simulated time, against other schedules.

`Lead` and `Back` are the shells that `lead/decoder.py` and `back/drafter.py` are in reality, with forward passes that
take as long as a cost says and messages that take as long as a link says. Hours of decoding take seconds.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import world
from bench.world import TARGETS, Acceptance, Cost, Link
from duo.drafting import CHAIN, TREE, Draft, Policy
from duo.planner import Everything, Limits, Planner
from duo.prefix import Prefix, extend_hash
from duo.sampling import SamplingParams
from duo.tree import Expansion, GuessTree, Node


@dataclass
class Clock:
    """What is to happen, in order."""

    now: float = 0.0
    _heap: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _order: Iterable[int] = field(default_factory=itertools.count)

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (self.now + seconds, next(iter(self._order)), event))

    def run(self, until: Callable[[], bool]) -> None:
        while self._heap and not until():
            self.now, _, event = heapq.heappop(self._heap)
            event()


class _Ranks:
    """Stands for the sampler of a back: the 'logits' of a row are the hash of its prefix."""

    def __init__(self, acceptance: Acceptance) -> None:
        self._acceptance = acceptance

    def rank(self, logits: Any, completion: Any, count: int, scale: float) -> list[tuple[int, float]]:
        return self._acceptance.ranked(int(logits))[:count]


@dataclass(frozen=True)
class Machine:
    """A back: what its draft costs, and how far it is from the lead."""

    cost: Cost
    link: Link


class Back:
    """One back's loop: hear, settle, expand, tell."""

    def __init__(self, machine: Machine, name: str, lead: Lead, policy: Policy) -> None:
        self.machine = machine
        self._name = name
        self._lead = lead
        self._draft = Draft(1, SamplingParams(), 1, world.DRAFT_MAX, machine.cost, policy=policy)
        self._draft._sampler = _Ranks(lead.acceptance)  # type: ignore[assignment]
        self._inbox: list[tuple[int, Sequence[int]]] = []
        self._busy = False

    def hear(self, start: int, tokens: Sequence[int]) -> None:
        self._inbox.append((start, tokens))
        if not self._busy:
            self._work()

    def _work(self) -> None:
        for start, tokens in self._inbox:
            self._draft.commit(start, tokens)
        self._inbox.clear()
        missing = self._draft.settle(512).missing
        rows = self._draft.next_batch(0)
        self._busy = bool(missing or rows)
        if self._busy:
            cost = self.machine.cost
            seconds = (cost(len(missing)) if missing else 0.0) + (cost(len(rows)) if rows else 0.0)
            self._lead.clock.after(seconds, self._done)

    def _done(self) -> None:
        lead = self._lead
        found = self._draft.absorb([node.hash for node in self._draft._batch])  # type: ignore[arg-type]
        if found:
            lead.clock.after(self.machine.link.delay(lead.rng), lambda: lead.receive(self._name, found))
        self._work()


class Lead:
    """The lead's loop: plan, forward, pick, commit, tell."""

    def __init__(self, acceptance: Acceptance, cost: Cost, planner: Planner | Everything, seed: int = 1) -> None:
        self.acceptance = acceptance
        self.clock = Clock()
        self.rng = random.Random(seed)
        self.prefix = Prefix([0])
        self.backs: list[Back] = []
        self._cost = cost
        self._planner = planner
        self._tree = GuessTree(1, self.prefix.hash)
        self._waiting = 0
        self._plans = 0

    def receive(self, back: str, found: Sequence[Expansion]) -> None:
        useful = [expansion for expansion in found if self._tree.merge(expansion, back)]
        if useful:
            self._planner.heard(self.clock.now, back, max(useful[0].probabilities))
        if self._waiting:
            self.step()

    def step(self) -> None:
        self._plans += 1
        self._waiting = 0
        plan = self._planner.plan(self._tree, self.clock.now)
        if plan.wait:
            self._waiting = number = self._plans
            self.clock.after(plan.wait, lambda: self.step() if self._waiting == number else None)
        else:
            self.clock.after(self._cost(1 + len(plan.nodes)), lambda: self._verified(plan.nodes))

    def _verified(self, nodes: Sequence[Node]) -> None:
        start, chosen = len(self.prefix), {id(node) for node in nodes}
        node: Node | None = self._tree.root
        tokens: list[int] = []
        state = self.prefix.hash
        while node is not None:
            tokens.append(self.acceptance.truth(state))
            state = extend_hash(state, tokens[-1])
            guess = node.children.get(tokens[-1])
            node = guess if id(guess) in chosen else None
        for token in tokens:
            self.prefix.extend([token])
            self._tree.advance(token, self.prefix.hash)
        self._planner.finished(self.clock.now, 1 + len(nodes), self._cost(1 + len(nodes)), len(tokens))
        self.tell(start, tokens)
        self.step()

    def tell(self, start: int, tokens: Sequence[int]) -> None:
        for back in self.backs:
            self.clock.after(back.machine.link.delay(self.rng), lambda back=back: back.hear(start, tokens))  # type: ignore[misc]


def run(
    acceptance: Acceptance,
    target: Cost,
    machines: Sequence[Machine],
    tokens: int,
    policy: Policy = TREE,
    planner: Planner | Everything | None = None,
) -> float:
    """Tokens per second of a lead with these backs."""
    lead = Lead(acceptance, target, planner or world.planner(target))
    lead.backs = [Back(machine, f"back {i}", lead, policy) for i, machine in enumerate(machines)]
    lead.tell(0, [0])
    lead.step()
    lead.clock.run(lambda: len(lead.prefix) > tokens)
    return (len(lead.prefix) - 1) / lead.clock.now


def chain(acceptance: Acceptance, target: Cost, machine: Machine, tokens: int) -> float:
    """Tokens per second of the plain asynchronous chain: one line, all of it verified, nothing waited for."""
    return run(acceptance, target, [machine], tokens, CHAIN, Everything(Limits(world.DRAFT_MAX)))


@dataclass(frozen=True)
class Cell:
    """One cell of the sweep: tokens per second of every schedule."""

    none: float
    local: float
    remote: float
    chain: float
    ours: float
    bound: float

    @property
    def best(self) -> float:
        return max(self.none, self.local, self.remote, self.chain)


DRAFT_MS = (2, 8, 15, 30)
ROUND_TRIPS_MS = (0.5, 1, 5, 10, 40)
MEANS = (0.55, 0.7, 0.8, 0.9)


def cell(target: Cost, draft_ms: float, round_trip_ms: float, acceptance: Acceptance, tokens: int) -> Cell:
    draft, round_trip = world.drafting(draft_ms / 1000), round_trip_ms / 1000
    machine = Machine(draft, Link(round_trip))
    return Cell(
        none=world.no_back(target),
        local=world.synchronous(target, draft, 0.0, acceptance, tokens),
        remote=world.synchronous(target, draft, round_trip, acceptance, tokens),
        chain=chain(acceptance, target, machine, tokens),
        ours=run(acceptance, target, [machine], tokens),
        bound=world.free(target, acceptance, tokens),
    )


def main(tokens: int, independent: bool, means: Sequence[float] = MEANS) -> int:
    """Print a table of the sweep and, per target, how we do against the best of the other schedules."""
    table = Table(title="Tokens per second, simulated" + (", i.i.d. acceptance" if independent else ""))
    names = (
        "target",
        "draft, ms",
        "round trip, ms",
        "acceptance",
        "none",
        "sync local",
        "sync remote",
        "chain",
        "ours",
    )
    for name in (*names, "bound", "ours/best"):
        table.add_column(name, justify="right")
    ratios: dict[str, list[float]] = {name: [] for name in TARGETS}
    for name, draft_ms, round_trip_ms, mean in itertools.product(TARGETS, DRAFT_MS, ROUND_TRIPS_MS, means):
        acceptance = (world.Constant if independent else world.Varying)(mean, seed=1)
        it = cell(TARGETS[name], draft_ms, round_trip_ms, acceptance, tokens)
        ratios[name].append(it.ours / it.best)
        speeds = (it.none, it.local, it.remote, it.chain, it.ours, it.bound)
        table.add_row(
            name, str(draft_ms), str(round_trip_ms), str(mean), *(f"{s:.1f}" for s in speeds), f"{ratios[name][-1]:.3f}"
        )
    console = Console()
    console.print(table)
    for name, values in ratios.items():
        mean_ratio = math.exp(sum(map(math.log, values)) / len(values))
        console.print(
            f"{name}: geometric mean {mean_ratio:.3f} of the best other schedule, worst cell {min(values):.3f}"
        )
    return 0
